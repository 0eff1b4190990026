"""market-enrichment: fills a market-data warehouse every night."""

__version__ = "0.1.0"
