"""The OpenAPI document as an HTML page without external resources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import render_template
from markupsafe import Markup, escape


def page(api: Mapping[str, Any]) -> str:
    """Render an OpenAPI document."""
    return render_template(
        "docs.html",
        api=api,
        groups=_groups(api),
        type_of=type_of,
        inline_code=inline_code,
        bounds=bounds,
    )


def _groups(api: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], list[tuple[str, str, Any]]]]:
    """The (method, path, operation) of each tag, in the document's order of tags."""
    operations = [
        (method.upper(), path, operation)
        for path, methods in api["paths"].items()
        for method, operation in methods.items()
    ]
    groups = [(tag, [o for o in operations if tag["name"] in o[2]["tags"]]) for tag in api["tags"]]
    return [(tag, tagged) for tag, tagged in groups if tagged]


def type_of(schema: Mapping[str, Any]) -> Markup:
    """A schema's type as text, with links to named schemas."""
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


def inline_code(text: str) -> Markup:
    """HTML of a text in which backquotes mark code."""
    parts = text.split("`")
    marked = [
        Markup("<code>{}</code>").format(p) if n % 2 else escape(p) for n, p in enumerate(parts)
    ]
    return Markup("").join(marked)


def bounds(schema: Mapping[str, Any]) -> str:
    """Default and limits of a parameter's schema as text."""
    formats = {
        "default": "default {}",
        "minimum": "≥ {}",
        "maximum": "≤ {}",
        "maxLength": "at most {} characters",
        "maxItems": "at most {}",
    }
    return ", ".join(text.format(schema[name]) for name, text in formats.items() if name in schema)
