"""Services of the API, the command line and the dashboard: commands, health, alerts."""
