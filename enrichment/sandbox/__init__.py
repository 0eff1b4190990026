"""The sandbox: a server that stands in for all vendors, with recorded and simulated bars.

Recorded are daily bars of AAPL, IBM, MSFT, GOOG and FB and hourly bars of C:EURUSD. Tickers `SIM` +
digits and `X:SIM` + digits + `USD` are simulated, the same on every machine; SIM91 to SIM99 have
splits and dividends, too. Faults are injected by
the command line or `POST /_sandbox/faults`.
"""

from enrichment.sandbox.app import create_app
from enrichment.sandbox.faults import Fault, parse_fault
from enrichment.sandbox.server import running, serve

__all__ = ["Fault", "create_app", "parse_fault", "running", "serve"]
