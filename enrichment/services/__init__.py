"""What operators and screens ask for: commands, health, alerts."""
