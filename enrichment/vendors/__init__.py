"""Vendors: from their wire formats to bars, behind the resilience patterns."""
