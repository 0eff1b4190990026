"""What the pages show, read and cached for all sessions."""
