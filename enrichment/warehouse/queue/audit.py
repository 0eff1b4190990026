"""The audit log: one row for every action of an operator."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, text


def record(
    conn: Connection,
    *,
    actor: str,
    action: str,
    target: str | None = None,
    reason: str | None = None,
    params: Mapping[str, Any] | None = None,
) -> None:
    """Append a row, in the transaction of the action itself."""
    conn.execute(
        text(_RECORD),
        {
            "actor": actor,
            "action": action,
            "target": target,
            "reason": reason,
            "params": json.dumps(dict(params or {})),
        },
    )


_RECORD = """
INSERT INTO operator_actions (actor, action, target, reason, params)
VALUES (:actor, :action, :target, :reason, CAST(:params AS jsonb))
"""
