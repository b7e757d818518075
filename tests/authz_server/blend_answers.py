"""What a test of blending reads in an answer, and what it changes between or during two."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import pytest

from audit_log.event import EventType
from tests.authz_server.back_half import CRM_URL, agent, declare, error_of, payload_of
from tests.authz_server.blending import PORTAL_BOT, Blending, acts_for

ONE_SENTENCE = "The subject_token cannot be used by this request."


def claims_of(answer: httpx2.Response) -> dict[str, Any]:
    """The claims of the token that was issued."""
    assert answer.status_code == 200, answer.text
    return payload_of(answer.json()["access_token"])


def tools_of(answer: httpx2.Response) -> list[str]:
    """The tools its one detail names."""
    (detail,) = claims_of(answer)["authorization_details"]
    return list(detail["tools"])


def details(*tools: str, **changes: Any) -> str:
    """`authorization_details` of one detail for crm, as a request sends it."""
    detail = {"type": "mcp_tool", "server": "crm", "tools": list(tools), "actions": ["call"]}
    return json.dumps([detail | changes])


def assert_refused(blending: Blending, answer: httpx2.Response, rule: str) -> None:
    """The agent learns one sentence, the audit which rule it was."""
    assert error_of(answer) == "invalid_request"
    assert answer.json()["error_description"] == ONE_SENTENCE
    event = blending.refusal()
    assert (event.type, event.reasons) == (EventType.EXCHANGE_REFUSED, (rule,)), event
    assert event.agent is not None


async def change_agent(blending: Blending, *subject_tokens: dict[str, Any]) -> None:
    """Other `subject_tokens` for portal-bot."""
    tools = ["crm/get_*", "crm/refund", "notes/search"]
    spec = acts_for(subject_tokens=list(subject_tokens))
    await blending.declare(agent("portal-bot", PORTAL_BOT, tools, acts_for=spec))


async def change_tools(blending: Blending, **sensitivity: int) -> None:
    """What the operator says of crm's tools."""
    await blending.declare(
        declare(
            "McpServer",
            "crm",
            url=CRM_URL,
            person_attributes=["groups"],
            credential={"provider": "crm-token"},
            approve="first_seen",
            tools={
                "get_account": {"read_only": True},
                **{name: {"sensitivity": level} for name, level in sensitivity.items()},
            },
        )
    )


def while_the_provider_is_asked(
    blending: Blending, monkeypatch: pytest.MonkeyPatch, happens: Callable[[], Awaitable[None]]
) -> None:
    """Let something happen when the person's token is judged and nothing is decided yet."""
    verify = blending.provider.verify_person_token

    async def overtaken(*arguments: Any) -> Any:
        found = await verify(*arguments)
        await happens()
        return found

    monkeypatch.setattr(blending.provider, "verify_person_token", overtaken)
