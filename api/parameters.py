"""Types of request parameters, with their validation and their description.

Validation is strict: nothing is trimmed or coerced.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from enrichment.domain.symbols import parse_symbol
from enrichment.warehouse.read_models.findings import Cursor

SYMBOL_PATTERN = r"^([XCxc]:)?[A-Za-z0-9][A-Za-z0-9.\-]{0,23}$"
_WHOLE = re.compile(r"-?\d{1,20}", re.ASCII)
_SECONDS = re.compile(r"\d{1,9}(\.\d{1,30})?([eE][-+]?\d{1,3})?", re.ASCII)
_FINDING_CURSOR = r"^-?[0-9]{1,17}_[A-Z0-9.:\-]{1,26}_[0-9]{1,2}[mhdw]_[a-z0-9_]{0,100}$"
_ACTION_CURSOR = r"^[1-9][0-9]{0,5}_[A-Za-z0-9.:\-]{1,26}_[a-z_]{1,20}$"
_PRINTABLE = r"^[^\u0000-\u001f\u007f-\u009f]*$"


class QueryModel(BaseModel):
    """The query parameters of an endpoint; unknown ones are an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class BodyModel(BaseModel):
    """The JSON body of an endpoint; unknown fields are an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _whole(value: Any) -> Any:
    if isinstance(value, str) and not _WHOLE.fullmatch(value):
        raise ValueError("give a whole number")
    return value


def _seconds(value: Any) -> Any:
    if isinstance(value, str) and not _SECONDS.fullmatch(value):
        raise ValueError("give a number of seconds")
    return value


def _flag(value: Any) -> Any:
    if isinstance(value, str) and value not in ("true", "false"):
        raise ValueError("give true or false")
    return value


def _symbol(value: Any) -> Any:
    if isinstance(value, str) and value != value.strip():
        raise ValueError(f"malformed symbol {value[:40]!r}: remove the surrounding blanks")
    if isinstance(value, str) and "/" in value:
        raise ValueError(f"malformed symbol {value[:40]!r}: write '-' for '/'")
    return parse_symbol(value) if isinstance(value, str) else value


def _cursor(value: Any) -> Any:
    """A symbol in the spelling in which it is stored, which may be an older one."""
    _symbol(value)
    return value


def _printable(value: Any) -> Any:
    if isinstance(value, str) and not (re.fullmatch(_PRINTABLE, value) and _is_encodable(value)):
        raise ValueError("no control characters")
    return value


def _is_encodable(value: str) -> bool:
    """Whether UTF-8 can encode it: it has no lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _moment(value: Any) -> datetime:
    """An RFC 3339 time, or a date for its midnight in UTC."""
    try:
        if re.fullmatch(r"\d{4}-\d\d-\d\d", value, re.ASCII):
            return datetime.combine(date.fromisoformat(value), time(), UTC)
        if re.match(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d", value, re.ASCII):
            moment = datetime.fromisoformat(value.replace("t", "T").replace("z", "Z"))
            return _in_utc(moment)
    except (TypeError, ValueError):
        pass
    raise ValueError("give a date such as 2024-03-01, or a time such as 2024-03-01T14:30:00Z")


def _day(value: Any) -> date:
    try:
        if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", value, re.ASCII):
            return date.fromisoformat(value)
    except ValueError:
        pass
    raise ValueError("give a date such as 2024-03-01")


def _in_utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("no time zone")
    try:
        return moment.astimezone(UTC)
    except OverflowError:  # at the limits of datetime
        return moment.replace(tzinfo=UTC)


def _action_cursor(value: Any) -> Any:
    """The number of a day since year 1, a symbol and a kind."""
    if isinstance(value, str) and re.fullmatch(_ACTION_CURSOR, value, re.ASCII):
        return value
    raise ValueError("no cursor of an earlier page")


def _finding_cursor(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch(_FINDING_CURSOR, value, re.ASCII):
        return Cursor.parse(value)
    raise ValueError("no cursor of an earlier page")


Whole = BeforeValidator(_whole)
"""A whole number: Annotated[int, Field(ge=…, le=…), Whole]."""
Seconds = BeforeValidator(_seconds)
Flag = Annotated[bool, BeforeValidator(_flag)]
_SYMBOL_SCHEMA = WithJsonSchema(
    {
        "type": "string",
        "pattern": SYMBOL_PATTERN,
        "description": "A ticker such as AAPL, BRK.B, BACpL or X:BTCUSD.",
        "examples": ["AAPL"],
    }
)
Symbol = Annotated[str, BeforeValidator(_symbol), _SYMBOL_SCHEMA]
Text = Annotated[
    str,
    Field(max_length=500, json_schema_extra={"pattern": _PRINTABLE}),
    BeforeValidator(_printable),
]
Day = Annotated[date, BeforeValidator(_day), WithJsonSchema({"type": "string", "format": "date"})]
Moment = Annotated[
    datetime,
    BeforeValidator(_moment),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "format": "date"},
                {"type": "string", "format": "date-time"},
            ],
            "description": "A date (midnight UTC) or an RFC 3339 time.",
            "examples": ["2024-03-01"],
        }
    ),
]
CURSOR = "Start of the page, from the Link header of the previous page."
ActionCursor = Annotated[
    str,
    BeforeValidator(_action_cursor),
    WithJsonSchema({"type": "string", "pattern": _ACTION_CURSOR, "description": CURSOR}),
]
SymbolCursor = Annotated[
    Annotated[str, BeforeValidator(_cursor), _SYMBOL_SCHEMA] | None, Field(description=CURSOR)
]
NumberCursor = Annotated[int, Field(ge=1, lt=2**63, description=CURSOR), Whole]
FindingCursor = Annotated[
    Cursor,
    BeforeValidator(_finding_cursor),
    WithJsonSchema({"type": "string", "pattern": _FINDING_CURSOR, "description": CURSOR}),
]
Limit = Annotated[int, Field(ge=1, le=500, description="Maximum number of entries."), Whole]
Reason = Annotated[Text | None, Field(description="Recorded in the audit log.")]
