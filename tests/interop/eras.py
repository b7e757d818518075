"""The era matrix: which method crosses from which agent to which server, and how. The one truth.

`tests/interop/test_era_matrix.py` takes its parameters from here, so a cell without a test cannot
be written; `docs/eras.md` shows it (`make docs`). A cell that has no test has a reason instead.
"""

from dataclasses import dataclass
from typing import Final

TEST_FILE: Final = "tests/interop/test_era_matrix.py"
MODERN, LEGACY = "modern", "legacy"
# Agent, server: each is a process of its own on the official SDK of its era.
PAIRS: Final = ((MODERN, MODERN), (MODERN, LEGACY), (LEGACY, MODERN), (LEGACY, LEGACY))


@dataclass(frozen=True, slots=True)
class Row:
    """One method. `cells` says what crosses, in the order of `PAIRS`; `test` proves every one.

    `form` is how the server answers: one JSON document, or a stream of events.
    """

    subject: str
    form: str
    test: str
    cells: tuple[str, str, str, str]
    reason: str = ""


BEGIN: Final = (
    "`server/discover`, answered by the gateway",
    "`server/discover`, answered by the gateway; `initialize` upstream",
    "`initialize`, answered by the gateway",
    "`initialize`, answered by the gateway; `initialize` upstream",
)
LISTED: Final = ("from the catalogue",) * 4
PLAIN: Final = ("as it is", "in a session upstream", "in a session below", "in two sessions")
PROGRESS: Final = ("on the call's stream",) * 4
CANCELLED: Final = (
    "stream closed → stream closed",
    "stream closed → `notifications/cancelled`",
    "`notifications/cancelled` → stream closed",
    "`notifications/cancelled` → `notifications/cancelled`",
)
EMPTY: Final = ("", "", "", "")

ROWS: Final = (
    Row("begin", "stream", "test_agent_begins_in_its_own_era", BEGIN),
    Row("`tools/list`", "stream", "test_agent_lists_the_tools", LISTED),
    Row("`tools/call`, JSON", "json", "test_agent_calls_a_tool", PLAIN),
    Row("`tools/call`, SSE", "stream", "test_agent_calls_a_tool", PLAIN),
    Row("`notifications/progress`", "stream", "test_agent_hears_progress", PROGRESS),
    Row(
        "`notifications/progress` of a JSON answer",
        "json",
        "",
        EMPTY,
        "one JSON document has no place for a notification, in either era",
    ),
    Row("cancellation", "stream", "test_agent_cancels_a_call", CANCELLED),
)


@dataclass(frozen=True, slots=True)
class Cell:
    """What a test gets: who asks whom, and how that one answers."""

    agent: str
    server: str
    form: str

    def __str__(self) -> str:
        return f"{self.agent}-agent-{self.server}-server-{self.form}"


def cells_of(test: str) -> list[Cell]:
    """The cells that a test has to prove."""
    return [
        Cell(agent, server, row.form)
        for row in ROWS
        if row.test == test
        for (agent, server), text in zip(PAIRS, row.cells, strict=True)
        if text
    ]


def era_matrix() -> str:
    """The matrix, for docs/eras.md."""
    head = " | ".join(f"{agent} agent, {server} server" for agent, server in PAIRS)
    lines = [f"| | {head} | test |", "|---" * (len(PAIRS) + 2) + "|"]
    for row in ROWS:
        cells = row.cells if row.test else ("none",) * len(PAIRS)
        proof = f"`{row.test}`" if row.test else row.reason
        lines.append(f"| {row.subject} | {' | '.join(cells)} | {proof} |")
    return "\n".join(lines) + "\n"
