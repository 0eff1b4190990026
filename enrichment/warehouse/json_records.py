"""Many rows as one value, which a statement reads by `jsonb_to_recordset`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import orjson


def recordset(rows: Iterable[Mapping[str, object]]) -> str:
    """A JSON array of the rows. Moments keep their offset; NaN becomes NULL."""
    return orjson.dumps(list(rows)).decode()
