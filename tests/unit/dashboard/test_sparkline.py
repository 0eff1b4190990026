"""Sparklines: where their points lie, and what they say."""

from __future__ import annotations

import re
from base64 import b64decode

from enrichment.dashboard.charts.sparkline import HEIGHT, MARGIN, WIDTH, drawn, sparkline


def points(svg: str) -> list[tuple[float, float]]:
    (line,) = re.findall(r'points="([^"]*)"', svg)
    pairs = (pair.split(",") for pair in line.split())
    return [(float(x), float(y)) for x, y in pairs]


def test_the_lowest_lies_at_the_bottom_and_the_highest_at_the_top() -> None:
    assert points(drawn([1.0, 3.0, 2.0])) == [
        (MARGIN, HEIGHT - MARGIN),
        (WIDTH / 2, MARGIN),
        (WIDTH - MARGIN, HEIGHT / 2),
    ]


def test_equal_values_lie_in_the_middle() -> None:
    assert {y for _, y in points(drawn([7.0] * 5))} == {HEIGHT / 2}


def test_it_says_in_words_what_it_draws() -> None:
    image = sparkline([100.0, 94.5, 99.0], 'Symbols "successful"')
    told = "Symbols &quot;successful&quot;: from 100 to 99, lowest 94.5, highest 100"
    assert f'alt="{told}"' in image
    (picture,) = re.findall(r"base64,([^\"]*)", image)
    assert b64decode(picture).decode() == drawn([100.0, 94.5, 99.0])
