"""What the consent page says of a tool and of where its server is, in words. Pure.

A description is the server's own text: one line, nothing invisible, short. It is shown as it was
approved, and the mark a consent holds for covers it by the definition's digest.
"""

import unicodedata
from typing import Any, Final
from urllib.parse import urlsplit

MAXIMUM_DESCRIPTION_CHARACTERS: Final = 200
# Cc and Cf: controls, and what turns the direction of text or hides; Cs, Co, Cn: no text at all.
_INVISIBLE: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})
CARE: Final = ("", "needs care", "touches important data", "cannot be undone")  # by sensitivity


def described(definition: dict[str, Any]) -> str:
    """The description in an MCP Tool object; at most 200 characters, empty where there is none."""
    text = definition.get("description")
    if not isinstance(text, str):
        return ""
    # Of a very long one only the beginning is looked at: this runs for each view of the page.
    line = " ".join(text[: 4 * MAXIMUM_DESCRIPTION_CHARACTERS].split())
    seen = "".join(each for each in line if unicodedata.category(each) not in _INVISIBLE)
    if len(seen) <= MAXIMUM_DESCRIPTION_CHARACTERS:
        return seen
    return seen[: MAXIMUM_DESCRIPTION_CHARACTERS - 1].rstrip() + "…"


def place_of(url: str) -> str:
    """Where a server is: the host and port of its URL, or whose process it is for `stdio://`."""
    parts = urlsplit(url)
    return (
        "a program beside the gateway"
        if parts.scheme == "stdio"
        else parts.netloc.rpartition("@")[2]
    )
