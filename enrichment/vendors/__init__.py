"""Vendors' wire formats made into one typed frame, `enrichment.domain.Fetched`."""
