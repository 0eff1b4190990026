"""One symbol from fetch to transaction: pure steps in the order that `enrich` shows."""
