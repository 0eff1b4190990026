"""What triggering symbols would ask of the vendors, for the forms of the trigger buttons."""

from __future__ import annotations

from collections.abc import Sequence

from enrichment.dashboard.data.cache import cached_read
from enrichment.dashboard.services import commands
from enrichment.domain.errors import EnrichmentError


def trigger_preview(symbols: Sequence[str] | None = None) -> list[str]:
    """Sentences, or why it can't be triggered. symbols: None for all active ones."""
    try:
        return _sentences(None if symbols is None else tuple(symbols))
    except EnrichmentError as exc:
        return [str(exc)]


@cached_read
def _sentences(symbols: tuple[str, ...] | None) -> list[str]:
    return commands().plan_trigger(symbols).sentences
