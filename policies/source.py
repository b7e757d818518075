"""Where in a Cedar text each policy stands. The engine reports no lines; people need them.

Only enough lexing to be exact about it: comments, strings, and the `;` that ends a policy. What a
policy means is never taken from here.
"""

import re
from dataclasses import dataclass
from typing import Final

_TOKEN: Final = re.compile(r'//[^\n]*|"(?:[^"\\]|\\.)*"|;|\S', re.DOTALL)
_COMMENT_OR_STRING: Final = re.compile(r'//[^\n]*|"(?:[^"\\]|\\.)*"', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Statement:
    """The text of one policy and the line (from 1) it starts on."""

    text: str
    line: int

    def line_of(self, *patterns: str) -> int:
        """The line of the first pattern that occurs outside comments; else the first line."""
        visible = _COMMENT_OR_STRING.sub(_without_comment, self.text)
        for pattern in patterns:
            found = re.search(pattern, visible)
            if found is not None:
                return self.line + visible.count("\n", 0, found.start())
        return self.line


def statements(cedar: str) -> tuple[Statement, ...]:
    """A document cut into its policies; a last one without `;` is kept for its error."""
    found: list[Statement] = []
    start: int | None = None
    for token in _TOKEN.finditer(cedar):
        if token.group().startswith("//"):
            continue
        start = token.start() if start is None else start
        if token.group() == ";":
            found.append(_statement(cedar, start, token.end()))
            start = None
    if start is not None:
        found.append(_statement(cedar, start, len(cedar)))
    return tuple(found)


def _statement(cedar: str, start: int, end: int) -> Statement:
    return Statement(cedar[start:end], 1 + cedar.count("\n", 0, start))


def _without_comment(token: re.Match[str]) -> str:
    return " " * len(token.group()) if token.group().startswith("/") else token.group()
