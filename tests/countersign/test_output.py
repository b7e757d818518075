"""What the command line prints: names chosen by agents never command a terminal."""

import pytest

from countersign.cli.context import visible


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
