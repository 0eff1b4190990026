"""The OpenAPI document as a page to read: plain HTML, nothing fetched from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import render_template
from markupsafe import Markup, escape


def page(api: Mapping[str, Any]) -> str:
    """The page of an OpenAPI document."""
    return render_template(
        "docs.html", api=api, groups=_groups(api), type_of=type_of, prose=prose, bounds=bounds
    )


def _groups(api: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], list[tuple[str, str, Any]]]]:
    """Tag → (method, path, operation), the groups in the order of the document's tags."""
    operations = [
        (method.upper(), path, operation)
        for path, methods in api["paths"].items()
        for method, operation in methods.items()
    ]
    groups = [(tag, [o for o in operations if tag["name"] in o[2]["tags"]]) for tag in api["tags"]]
    return [(tag, found) for tag, found in groups if found]


def type_of(schema: Mapping[str, Any]) -> Markup:
    """A schema's type in words, with links to the named ones."""
    if reference := schema.get("$ref"):
        name = reference.rsplit("/", 1)[1]
        return Markup('<a href="#{0}">{0}</a>').format(name)
    if options := schema.get("anyOf"):
        return Markup(" or ").join(type_of(option) for option in options)
    if "enum" in schema:
        return Markup(" | ").join(Markup("<code>{}</code>").format(v) for v in schema["enum"])
    kind = schema.get("type", "any")
    if isinstance(kind, list):
        return escape(" or ".join(kind))
    if kind == "array":
        return Markup("list of {}").format(type_of(schema.get("items", {})))
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return Markup("object: name → {}").format(type_of(schema["additionalProperties"]))
    return escape(schema.get("format", kind))


def prose(words: str) -> Markup:
    """Text with `names` set apart."""
    parts = words.split("`")
    marked = [
        Markup("<code>{}</code>").format(p) if n % 2 else escape(p) for n, p in enumerate(parts)
    ]
    return Markup("").join(marked)


def bounds(schema: Mapping[str, Any]) -> str:
    """What a parameter's schema says beside its type."""
    words = {
        "default": "default {}",
        "minimum": "≥ {}",
        "maximum": "≤ {}",
        "maxLength": "at most {} characters",
        "maxItems": "at most {}",
    }
    return ", ".join(text.format(schema[name]) for name, text in words.items() if name in schema)
