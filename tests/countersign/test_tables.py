"""Tables fit the terminal; a pipe gets everything, one line per row."""

import io

import pytest
from rich.console import Console

from countersign.cli.context import CommandContext, Output
from countersign.cli.tables import table_lines
from countersign.settings import ClientSettings

TITLES = ("NAME", "STATE", "DESCRIPTION")
ROWS = [("get_account", "approved", "Reads an account. " * 8), ("漢字", "new", "")]


def plain(width: int | None, below: int = 0) -> list[str]:
    return [line.plain for line in table_lines(TITLES, ROWS, width=width, below=below)]


def test_table_with_room_shows_everything_in_columns() -> None:
    heading, first, second = plain(None)
    assert heading == "NAME         STATE     DESCRIPTION"
    assert first == f"get_account  approved  {ROWS[0][2].rstrip()}"
    assert second == "漢字         new"  # each of these characters is two columns wide


def test_table_of_a_narrow_terminal_shortens_the_last_columns_and_no_other() -> None:
    heading, first, _ = plain(40)
    assert heading == "NAME         STATE     DESCRIPTION"
    assert first == "get_account  approved  Reads an account…"
    assert len(first) == 40


def test_table_too_narrow_for_every_column_keeps_the_start_of_each() -> None:
    rows = [("a" * 40, "b" * 40)]
    _, row = table_lines(("ONE", "TWO"), rows, width=20)
    assert row.plain == f"{'a' * 11}…  {'b' * 11}…"


def test_columns_that_may_go_below_do_so_only_where_they_must() -> None:
    assert plain(200, below=1) == plain(None)
    lines = plain(40, below=1)
    assert lines[:2] == ["NAME         STATE", "    DESCRIPTION"]
    assert lines[2] == "get_account  approved"
    assert lines[3] == "    Reads an account. Reads an account. …"[:39] + "…"
    assert lines[4:] == ["漢字         new"]


def shown(output: Output, *, is_terminal: bool) -> str:
    printed = io.StringIO()
    console = Console(file=printed, force_terminal=is_terminal, color_system=None, width=40)
    context = CommandContext(ClientSettings(), Output.TABLE, False, console, console)
    rows = [{"name": name, "description": text} for name, _, text in ROWS]
    columns = {"NAME": lambda row: row["name"], "DESCRIPTION": lambda row: row["description"]}
    context.printing(output).show(rows, columns)
    return printed.getvalue()


@pytest.mark.parametrize(
    ("output", "is_terminal", "is_whole"),
    [(Output.TABLE, True, False), (Output.WIDE, True, True), (Output.TABLE, False, True)],
)
def test_pipe_and_wide_show_what_a_terminal_shortens(
    output: Output, is_terminal: bool, is_whole: bool
) -> None:
    text = shown(output, is_terminal=is_terminal)
    assert (ROWS[0][2].rstrip() in text) is is_whole
    assert len(text.splitlines()) == 3
    if not is_whole:
        assert max(len(line) for line in text.splitlines()) <= 40


def test_table_without_rows_says_so_in_words() -> None:
    printed = io.StringIO()
    console = Console(file=printed)
    context = CommandContext(ClientSettings(), Output.TABLE, False, console, console)
    context.show([], {"NAME": str}, empty="Nothing is blocked.")
    assert printed.getvalue() == "Nothing is blocked.\n"
