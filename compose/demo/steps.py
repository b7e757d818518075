"""What every step of the story has: the running demo, its agent, the audit, a line to print."""

import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from rich.console import Console

from compose.demo.agent_process import AgentProcess
from compose.demo.browser import Browser, Page, log_in_and_allow
from compose.demo.people import PASSWORDS, LocalPeople, People
from compose.demo.stack import Stack


class StepFailedError(Exception):
    """A step did not show what it must."""


@dataclass
class Story:
    """The running demo and what was seen so far."""

    stack: Stack
    console: Console
    people: People = field(default_factory=LocalPeople)
    started: float = field(default_factory=time.monotonic)
    agent: AgentProcess | None = None
    seen: dict[str, Any] = field(default_factory=dict)
    level: int = 1  # of the agent's evidence: 2 for an agent with a JWT-SVID

    def require(self, condition: object, message: str) -> None:
        """Fail the current step unless `condition` holds."""
        if not condition:
            raise StepFailedError(message)

    def line(self, number: str, name: str, what: str, verdict: str = "", why: str = "") -> None:
        """One line of the story."""
        colour = {"ALLOW": "green", "DENY": "red"}.get(verdict, "")
        mark = f"[{colour}]{verdict:<6}[/]" if colour else f"{verdict:<6}" if verdict else ""
        text = f"[dim]{number:>2}[/] [bold]{name:<8}[/] {what:<40} {mark}{why}"
        self.console.print(text.rstrip(), highlight=False, soft_wrap=True)

    @property
    def bot(self) -> AgentProcess:
        """The agent's process."""
        if self.agent is None:
            message = "the agent was not started"
            raise StepFailedError(message)
        return self.agent

    def person_allows(
        self, browser: Browser, name: str, server: str, tools: list[str]
    ) -> tuple[dict[str, Any], Page | None]:
        """The agent asks, the person logs in and consents, the agent redeems the code."""
        asked = self.bot.do("authorize", resource=self.stack.endpoint(server), tools=tools)
        redirect, consent = log_in_and_allow(browser, asked["url"], name, PASSWORDS[name])
        return self.bot.do("redeem", redirect=redirect), consent

    def call(self, server: str, tool: str, **arguments: object) -> dict[str, Any]:
        """One tool call through the gateway."""
        return self.bot.do(
            "call", resource=self.stack.endpoint(server), tool=tool, arguments=arguments
        )

    def recorded(self, kind: str, tool: str, since: str) -> dict[str, Any]:
        """The newest event of a kind on a tool, recorded after `since` (ISO 8601)."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            found = self.audit("--tool", tool, "--type", kind)["events"]
            if found and found[0]["timestamp"] >= since:
                return dict(found[0])
            time.sleep(0.05)
        message = f"the audit has no {kind} on {tool} since {since}"
        raise StepFailedError(message)

    def audit(self, *arguments: str) -> dict[str, Any]:
        """What `countersign audit search` answers."""
        done = self.stack.command("-o", "json", "audit", "search", "--limit", "1000", *arguments)
        return dict(json.loads(done.stdout))


def policies(story: Story, server: str, tool: str, since: str) -> str:
    """The policies behind the call just made, from the audit."""
    decided = story.recorded("call.decided", f"{server}/{tool}", since)
    matched = decided.get("policy_matched", [])
    story.require(matched, "the audit names no policy")
    return ", ".join(matched)


def timestamp() -> str:
    """Now, as the audit writes it."""
    now = datetime.now(UTC)  # noqa: TID251 - the demo's own wall clock
    return now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
