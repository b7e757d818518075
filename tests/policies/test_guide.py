"""The example of docs/guides/policies.md grants what it guards."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from policies.compile import KnownNames, ServerCatalogue
from policies.entities import AgentFacts
from tests.policies.story import BASE, call, compiled, inputs

GUIDE = Path(__file__).parents[2] / "docs/guides/policies.md"
ORDERS = ServerCatalogue(
    "orders",
    ("groups",),
    (
        ("get_order", inputs(), True, 0),
        ("refund", inputs(amount={"type": "number"}), False, 0),
    ),
    "orders-token",
)
KNOWN = KnownNames(
    agents=("helpdesk-bot",), agent_groups=("helpdesk-agents",), identity_providers=("local",)
)
BOT = AgentFacts("helpdesk-bot", ("helpdesk-agents",), "production", 1, "unix_process")


@pytest.mark.parametrize(
    ("tool", "arguments", "is_allowed"),
    [
        ("get_order", {}, True),
        ("refund", {"amount": 500}, True),
        ("refund", {"amount": 500.5}, False),
    ],
)
def test_example_of_the_guide_decides_as_it_says(
    tool: str, arguments: dict[str, object], is_allowed: bool
) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    declared: dict[str, Any] = yaml.safe_load(block)
    assert (declared["kind"], declared["name"]) == ("Policy", "helpdesk")
    policies = compiled(BASE.cedar, declared["spec"]["cedar"], servers=(ORDERS,), known=KNOWN)
    decision = policies.decide_call(call(tool, arguments, server=ORDERS, agent=BOT))
    assert decision.allowed is is_allowed, decision
