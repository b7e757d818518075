"""What the command line prints: names chosen by agents never command a terminal."""

import io
import json

import pytest
import yaml
from rich.console import Console

from countersign.cli.context import CommandContext, Output, visible
from countersign.settings import ClientSettings

# Clears a screen (ESC and its 8-bit form), sets a title, turns text around, breaks a line.
HOSTILE = "\x1b[2J\x9b2J\x9d0;x\x9c\u202eevil\u2066\u2028\x7f\r\n[red]Zoë[/red]"
OBEYED = set(HOSTILE) - set("[2J]0;xevilred/Zoë\n")


@pytest.mark.requirement("trap-terminal-escape")
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("get_account", "get_account"),
        ("Zoë/漢字", "Zoë/漢字"),
        ("\x1b[2Jx", "\\u001b[2Jx"),
        ("a\u202eb", "a\\u202eb"),
        ("a\nb\rc\x9b", "a\\u000ab\\u000dc\\u009b"),
        ("[/x]", "[/x]"),
    ],
)
def test_control_characters_are_shown_not_obeyed(name: str, shown: str) -> None:
    assert visible(name) == shown


@pytest.mark.requirement("trap-terminal-escape")
@pytest.mark.parametrize("output", list(Output))
def test_no_format_prints_what_a_terminal_would_obey(output: Output) -> None:
    printed = io.StringIO()
    console = Console(file=printed, force_terminal=False, width=400)
    context = CommandContext(ClientSettings(), output, False, console, console)

    context.show([{"name": HOSTILE}], {"NAME": lambda row: str(row["name"])})

    text = printed.getvalue()
    assert not OBEYED & set(text)
    if output is Output.JSON:
        assert json.loads(text) == [{"name": HOSTILE}]
    elif output is Output.YAML:
        assert yaml.safe_load(text) == [{"name": HOSTILE}]
