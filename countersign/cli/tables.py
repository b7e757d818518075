"""Tables of one line per row: whole where there is room, fitted to the terminal where not.

Columns stand in the order of their importance. In a terminal too narrow for them the last ones go
to a second line, and what still does not fit ends in `…`, the last column first. `-o wide` shows
everything, and so does a pipe or a file: what a script reads does not depend on a window.
"""

from collections.abc import Sequence

from rich.cells import cell_len
from rich.text import Text

GAP = "  "
INDENT = "    "  # of a second line
SHORTEST = 12  # characters of a column that is shortened


def table_lines(
    titles: Sequence[str], rows: Sequence[Sequence[str]], *, width: int | None, below: int = 0
) -> list[Text]:
    """The heading and the rows. `width`: characters of the terminal, None to shorten nothing.

    `below`: how many of the last columns may go to a second line.
    """
    table = [list(titles), *(list(row) for row in rows)]
    widths = [max(cell_len(row[column]) for row in table) for column in range(len(titles))]
    above = len(titles)
    if width is not None and _total(widths) > width and below:
        above -= below
        widths = widths[:above]
    if width is not None:
        widths = _fitted(widths, titles, width)
    lines: list[Text] = []
    for number, row in enumerate(table):
        style = "bold" if number == 0 else ""
        lines.append(_line(row[:above], widths, style))
        rest = GAP.join(cell for cell in row[above:] if cell)
        if rest:
            second = Text(INDENT + rest, style)
            second.truncate(width or cell_len(second.plain), overflow="ellipsis")
            lines.append(second)
    return lines


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _fitted(widths: list[int], titles: Sequence[str], width: int) -> list[int]:
    """The widths, the last columns shortened as far as they may be until the line fits."""
    fitted = list(widths)
    for column in reversed(range(len(fitted))):
        excess = _total(fitted) - width
        if excess <= 0:
            break
        least = min(fitted[column], max(SHORTEST, cell_len(titles[column])))
        fitted[column] = max(least, fitted[column] - excess)
    return fitted


def _line(cells: Sequence[str], widths: Sequence[int], style: str) -> Text:
    line = Text(style=style)
    for number, (cell, width) in enumerate(zip(cells, widths, strict=True)):
        shown = Text(cell)
        shown.truncate(width, overflow="ellipsis", pad=number < len(widths) - 1)
        line.append(GAP if number else "").append_text(shown)
    line.rstrip()
    return line
