"""The sandbox as a Flask app: the vendors' wire formats, and `/_sandbox/…` to control it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import orjson
from flask import Blueprint, Flask, Response, request

from enrichment.domain.clock import utc_now
from enrichment.domain.errors import InvalidRequest
from enrichment.sandbox.alpaca import AlpacaFormat
from enrichment.sandbox.binance import BinanceFormat
from enrichment.sandbox.coinbase import CoinbaseFormat
from enrichment.sandbox.faults import Fault
from enrichment.sandbox.market import Market
from enrichment.sandbox.polygon import PolygonFormat
from enrichment.sandbox.polygon_plan import plan_of
from enrichment.sandbox.recorded import recordings
from enrichment.sandbox.share_actions import ShareActions
from enrichment.sandbox.vendor import SandboxVendor
from enrichment.sandbox.wire_format import WireFormat
from enrichment.sandbox.yahoo import YahooFormat

WIRE_FORMATS: tuple[type[WireFormat], ...] = (
    PolygonFormat,
    BinanceFormat,
    YahooFormat,
    CoinbaseFormat,
    AlpacaFormat,
)


def create_app(
    *,
    clock: Callable[[], datetime] = utc_now,
    anchor: datetime | None = None,
    shifted: bool = True,
    api_key: str | None = None,
    quota_per_minute: int | None = None,
    faults: Iterable[Fault] = (),
    seed: int = 0,
    plan: str = "paid",
    listed: int = 100,
    actions: Mapping[str, ShareActions] | None = None,
    wire_formats: Sequence[type[WireFormat]] = WIRE_FORMATS,
) -> Flask:
    """Create the app; `app.extensions["sandbox"]` is its `SandboxVendor`.

    Args:
        clock: The sandbox's wall clock; later bars are not served.
        anchor: Recorded series end at the last session that is complete by then; default: now.
        shifted: False replays recorded series on their original dates.
        api_key: The only accepted key; None: any that is not empty.
        quota_per_minute: Requests of one key in 60 seconds before it gets a 429; None: unlimited.
        faults: Injected from the start.
        seed: Of simulated bars and of faults with a probability.
        plan: Of Polygon, "paid" or "free".
        listed: Simulated stocks in whole-market answers.
        actions: Splits and dividends of simulated stocks, in place of those they have everywhere.
        wire_formats: One for each vendor that the sandbox stands in for.
    """
    app = Flask(__name__, static_folder=None)
    vendor = SandboxVendor(
        Market(anchor or clock(), shifted=shifted, seed=seed, simulated=listed, actions=actions),
        clock=clock,
        api_key=api_key,
        quota_per_minute=quota_per_minute,
        faults=faults,
        vendors=[wire_format.name for wire_format in wire_formats],
        seed=seed,
        plan=plan_of(plan),
    )
    app.extensions["sandbox"] = vendor
    for wire_format in wire_formats:
        app.register_blueprint(wire_format(vendor).blueprint())
    app.register_blueprint(_ControlEndpoints(vendor).blueprint(), url_prefix="/_sandbox")
    return app


class _ControlEndpoints:
    """`/_sandbox/…`: faults, replay, request counts, health."""

    def __init__(self, vendor: SandboxVendor) -> None:
        self._vendor = vendor

    def blueprint(self) -> Blueprint:
        routes = Blueprint("control", __name__)
        routes.get("/health")(self.health)
        routes.get("/faults")(self.faults)
        routes.post("/faults")(self.add_faults)
        routes.delete("/faults")(self.clear_faults)
        routes.get("/replay")(self.replay)
        routes.put("/replay")(self.set_replay)
        routes.get("/requests")(self.requests)
        routes.delete("/requests")(self.clear_requests)
        routes.before_request(_reject_other_sites)
        routes.register_error_handler(InvalidRequest, _bad_request)
        return routes

    def health(self) -> Response:
        return _json({"status": "ok", "recorded": sorted(recordings())})

    def faults(self) -> Response:
        return _json(self._vendor.faults.describe())

    def add_faults(self) -> Response:
        descriptions = _body()
        if not isinstance(descriptions, list):
            raise InvalidRequest(
                'send a JSON list of faults: [{"ticker": "AAPL", "kind": "reset"}]'
            )
        self._vendor.faults.add([Fault.of(description) for description in descriptions])
        return self.faults()

    def clear_faults(self) -> Response:
        self._vendor.faults.clear()
        return self.faults()

    def replay(self) -> Response:
        market = self._vendor.market
        return _json({"anchor": market.anchor.isoformat(), "shifted": market.shifted})

    def set_replay(self) -> Response:
        """Restart the replay of recorded series: `{"anchor": "2024-05-31", "shifted": true}`."""
        body, market = _body(), self._vendor.market
        if not isinstance(body, dict) or not body.keys() <= {"anchor", "shifted"}:
            raise InvalidRequest(
                'send a JSON object with "anchor" (a date) and "shifted" (a boolean)'
            )
        shifted = body.get("shifted", market.shifted)
        if not isinstance(shifted, bool):
            raise InvalidRequest('"shifted" must be true or false')
        anchor = _parsed_moment(body["anchor"]) if "anchor" in body else market.anchor
        self._vendor.market = Market(
            anchor,
            shifted=shifted,
            seed=market.seed,
            simulated=market.simulated,
            actions=market.actions,
        )
        return self.replay()

    def requests(self) -> Response:
        return _json(self._vendor.requests.describe())

    def clear_requests(self) -> Response:
        self._vendor.requests.clear()
        return self.requests()


def _reject_other_sites() -> Response | None:
    """A page of another site can't send JSON without being asked first, which is not answered."""
    host = urlsplit(f"//{request.host}").hostname
    if host not in ("localhost", "127.0.0.1", "::1"):
        return _json({"error": "the sandbox serves localhost only"}, 400)
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc != request.host:
        return _json({"error": "cross-site request"}, 403)
    if request.method in ("POST", "PUT") and request.mimetype != "application/json":
        return _json({"error": "send JSON, with Content-Type: application/json"}, 400)
    return None


def _body() -> Any:
    try:
        return orjson.loads(request.get_data())
    except orjson.JSONDecodeError as exc:
        raise InvalidRequest(f"the body is not JSON: {exc}") from exc


def _parsed_moment(text: object) -> datetime:
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        raise InvalidRequest(f'"anchor" {text!r} is not a date: write YYYY-MM-DD') from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _bad_request(exc: Exception) -> Response:
    return _json({"error": str(exc)}, 400)


def _json(body: object, status: int = 200) -> Response:
    return Response(orjson.dumps(body), status, mimetype="application/json")
