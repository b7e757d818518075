"""The client table: which client anybody can get does what with a gateway of ours. The one truth.

`tests/interop/test_client_table.py` takes its parameters from here, and `docs/eras.md` shows it
(`make docs`). A step a client does not take has the reason instead of a test.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

TEST_FILE: Final = "tests/interop/test_client_table.py"
MODERN, LEGACY = "modern", "legacy"


@dataclass(frozen=True, slots=True)
class Step:
    """One column: what a client does, and the test that proves it."""

    name: str
    test: str


STEPS: Final = (
    Step("discovery from the 401", "test_client_finds_its_way_from_the_401"),
    Step("login and consent", "test_person_logs_in_and_consents"),
    Step("list", "test_client_lists_the_tools"),
    Step("call", "test_client_calls_a_tool"),
    Step("401 on expiry", "test_expired_token_is_challenged_and_the_client_goes_on"),
    Step("refresh", "test_client_refreshes"),
)


@dataclass(frozen=True, slots=True)
class ClientRow:
    """One client in one era. `says`: what a cell says instead of yes; `empty`: why it is empty.

    `is_bound`: it proves possession of a key of its own (RFC 9449), and its tokens are bound to it.
    `asks_offline`: it adds `offline_access` to the scope of the challenge.
    """

    client: str
    package: str
    era: str
    says: Mapping[str, str] = field(default_factory=dict)
    empty: Mapping[str, str] = field(default_factory=dict)
    is_bound: bool = False
    asks_offline: bool = True

    def __str__(self) -> str:
        return f"{self.client} {self.era}".lower().replace(" ", "-")


AGAIN: Final = "yes: it authorizes again, through the browser"
AT_THE_END: Final = "yes, instead of a 401, when it knows that the token has ended"
AT_THE_401: Final = "yes, at the 401"
ON_PYTHON: Final = {"401 on expiry": AGAIN, "refresh": AT_THE_END}
ON_TYPESCRIPT: Final = {"401 on expiry": "yes: it refreshes", "refresh": AT_THE_401}
ROWS: Final = (
    ClientRow("Python", "mcp 2.3.0", MODERN, ON_PYTHON),
    ClientRow("Python", "mcp 2.3.0", LEGACY, ON_PYTHON),
    ClientRow("Python 1", "mcp 1.30.0", LEGACY, ON_PYTHON, asks_offline=False),
    ClientRow("TypeScript", "@modelcontextprotocol/client 2.4.0", MODERN, ON_TYPESCRIPT),
    ClientRow("TypeScript", "@modelcontextprotocol/client 2.4.0", LEGACY, ON_TYPESCRIPT),
    ClientRow(
        "TypeScript DPoP",
        "@modelcontextprotocol/client 2.4.0",
        MODERN,
        {"login and consent": "yes, the token is bound to its key", **ON_TYPESCRIPT},
        is_bound=True,
    ),
    ClientRow(
        "TypeScript 1",
        "@modelcontextprotocol/sdk 1.32.2",
        LEGACY,
        ON_TYPESCRIPT,
        asks_offline=False,
    ),
    ClientRow("Inspector CLI", "@modelcontextprotocol/inspector 2.12.0", MODERN, ON_TYPESCRIPT),
    ClientRow("Inspector CLI", "@modelcontextprotocol/inspector 2.12.0", LEGACY, ON_TYPESCRIPT),
)


def rows_of(test: str) -> list[ClientRow]:
    """The clients that a test has to prove."""
    step = next(step for step in STEPS if step.test == test)
    return [row for row in ROWS if step.name not in row.empty]


def client_table() -> str:
    """The table, for docs/eras.md."""
    lines = [
        f"| client | {' | '.join(step.name for step in STEPS)} |",
        "|---" * (len(STEPS) + 1) + "|",
    ]
    for row in ROWS:
        cells = [
            f"none: {row.empty[step.name]}"
            if step.name in row.empty
            else row.says.get(step.name, "yes")
            for step in STEPS
        ]
        lines.append(f"| {row.client}, {row.era} (`{row.package}`) | {' | '.join(cells)} |")
    lines.append(f"| test | {' | '.join(f'`{step.test}`' for step in STEPS)} |")
    return "\n".join(lines) + "\n"
