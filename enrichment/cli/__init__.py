"""The command line `enrichment`."""
