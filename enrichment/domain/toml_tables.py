"""What users write in TOML as an array of tables, read with errors that say how to fix it.

>>> read_tables("rules.toml", '[[rule]]\\nname = "Late"', "rule")
[{'name': 'Late'}]
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from enrichment.domain.errors import ConfigurationError


def read_text(file: Path, what: str, setting: str) -> str:
    """The text of a file. Raises ConfigurationError if it can't be read.

    Args:
        file: To read.
        what: It holds, in the plural.
        setting: That names the file.
    """
    try:
        return file.read_text(encoding="utf-8")
    except OSError as exc:
        raise ConfigurationError(
            f"{file}: the {what} can't be read ({exc.strerror}): correct {setting} or remove it"
        ) from None
    except UnicodeDecodeError as exc:
        raise ConfigurationError(f"{file}: not TOML: {exc}") from None


def read_tables(source: object, text: str, kind: str) -> list[dict[str, Any]]:
    """The tables [[kind]] of a document that has nothing else. Raises ConfigurationError.

    Args:
        source: Of the document, for the error.
        text: The document.
        kind: Name of the tables.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigurationError(f"{source}: not TOML: {exc}") from None
    tables = content.pop(kind, [])
    if content or not (isinstance(tables, list) and all(isinstance(t, dict) for t in tables)):
        unknown = ", ".join(sorted(content)) or kind
        raise ConfigurationError(
            f"{source}: {unknown} is not valid: write each {kind} as [[{kind}]]"
        )
    return tables


def require_known(
    source: object, entry: str, table: Mapping[str, Any], fields: Collection[str]
) -> None:
    """Raise ConfigurationError if a table has another field than these."""
    if unknown := sorted(set(table) - set(fields)):
        raise ConfigurationError(
            f"{source}: {entry}: unknown field {unknown[0]}: known are {', '.join(fields)}"
        )


def invalid_field(
    source: object, entry: str, field: str, expected: str, value: object
) -> ConfigurationError:
    """The error for a value that a field can't have; None: it is missing."""
    actual = "missing" if value is None else repr(value)
    return ConfigurationError(f"{source}: {entry}: {field} must be {expected}, is {actual}")
