"""What the pages show, read from the read models and cached for all sessions."""
