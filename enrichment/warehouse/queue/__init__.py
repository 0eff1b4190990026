"""The queue in Postgres: jobs, items, leases, workers, pauses and the tracked symbols."""
