"""A series in Postgres: bars, features, flags, gaps, status and the run log."""
