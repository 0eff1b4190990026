"""Tables that fit: a narrow terminal lacks the least important columns, and no cell is cut."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from rich.console import Console, ConsoleOptions
from rich.text import Text

from enrichment.cli.context import PIPE_COLUMNS, SafeConsole

GAP = 2  # columns between two cells
MIN_PROSE = 24  # columns that sentences need beside the other cells, else they go below them


class Table:
    """Rows under a header.

    Args:
        columns: Names of the columns.
        right: The columns to align to the right.
        optional: The columns that a narrow terminal lacks; the first is left out first.
        prose: The name of a last column of sentences, which take several lines where needed.
    """

    def __init__(
        self,
        *columns: str,
        right: Collection[str] = (),
        optional: Sequence[str] = (),
        prose: str | None = None,
    ) -> None:
        self._names = [*columns, prose] if prose else list(columns)
        self._right, self._optional, self._prose = right, optional, prose
        self._rows: list[list[Text]] = []

    def add_row(self, *cells: str | Text) -> None:
        texts = [cell if isinstance(cell, Text) else Text(cell) for cell in cells]
        for text in texts:
            text.plain = " ".join(text.plain.splitlines())
        self._rows.append(texts)

    def as_plain(self) -> str:
        """All columns, separated by tabs, under their names."""
        rows = [self._names, *([cell.plain.replace("\t", " ") for cell in r] for r in self._rows)]
        return "\n".join("\t".join(row) for row in rows)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        width = None if options.max_width == PIPE_COLUMNS else options.max_width
        left_out = self._left_out(width)
        widths = {name: w for name, w in self._widths().items() if name not in left_out}
        used = sum(w + GAP for w in widths.values())
        below = width is not None and width - used < MIN_PROSE
        indent = 2 * GAP if below else used
        header = [
            Text("" if below and name == self._prose else name, "bold") for name in self._names
        ]
        for row in (header, *self._rows):
            cells = dict(zip(self._names, row, strict=True))
            line = self._line(cells, widths)
            prose = cells[self._prose] if self._prose else Text()
            folded = [prose] if width is None else list(prose.wrap(console, width - indent))
            if not below:
                line.append_text(folded.pop(0))
            line.rstrip()
            yield line
            yield from (Text.assemble(" " * indent, text) for text in folded if text.plain)
        if left_out:
            note = Text(f"not shown at {width} columns: {', '.join(left_out)}", "dim")
            yield from note.wrap(console, options.max_width)

    def _widths(self) -> dict[str, int]:
        """Of each column but the prose."""
        return {
            name: max([len(name), *(row[n].cell_len for row in self._rows)])
            for n, name in enumerate(self._names)
            if name != self._prose
        }

    def _left_out(self, width: int | None) -> list[str]:
        """The columns for which a terminal of this width has no place."""
        widths, left_out = self._widths(), []
        needed = sum(widths.values()) + GAP * (len(widths) - 1)
        for name in self._optional:
            if width is None or needed <= width:
                break
            needed -= widths[name] + GAP
            left_out.append(name)
        return left_out

    def _line(self, cells: Mapping[str, Text], widths: Mapping[str, int]) -> Text:
        line = Text()
        for name, width in widths.items():
            space = " " * (width - cells[name].cell_len)
            parts = (space, cells[name]) if name in self._right else (cells[name], space)
            line = Text.assemble(line, *parts, " " * GAP)
        return line


def print_table(console: SafeConsole, table: Table, *, plain: bool = False) -> None:
    """Print a table as it fits. plain: separated by tabs instead."""
    if plain:
        console.print_plain(table.as_plain())
    else:
        console.print(table)
