"""A small line without axes that says in words what it draws."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT, MARGIN = 200.0, 36.0, 3.0


def sparkline(values: Sequence[float], what: str) -> str:
    """An image in HTML: the values from left to right, the lowest at the bottom, the highest at the
    top, equal ones in the middle. what: of which the words tell first, last, lowest and highest.
    """
    told = (
        f"{what}: from {values[0]:.4g} to {values[-1]:.4g}, "
        f"lowest {min(values):.4g}, highest {max(values):.4g}"
    )
    picture = b64encode(drawn(values).encode()).decode()
    return (
        f'<img alt="{escape(told)}" title="{escape(told)}" width="100%" height="{HEIGHT:.0f}"'
        f' src="data:image/svg+xml;base64,{picture}">'
    )


def drawn(values: Sequence[float]) -> str:
    """The line as SVG."""
    low, high = min(values), max(values)
    step = (WIDTH - 2 * MARGIN) / max(1, len(values) - 1)
    points = " ".join(
        f"{MARGIN + n * step:.1f},{_level(value, low, high):.1f}" for n, value in enumerate(values)
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg"'
        f' viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" preserveAspectRatio="none">'
        f'<polyline points="{points}" fill="none" stroke="#4c7fe0" stroke-width="1.8"'
        ' stroke-linejoin="round" vector-effect="non-scaling-stroke"/></svg>'
    )


def _level(value: float, low: float, high: float) -> float:
    share = 0.5 if high == low else (value - low) / (high - low)
    return HEIGHT - MARGIN - share * (HEIGHT - 2 * MARGIN)
