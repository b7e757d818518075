"""What several tests of the front half ask for, and how they change what is declared."""

import json
from typing import Any

import msgspec
from httpx2 import Response

from authz_server.authorize_accepted import check_authorization_request
from authz_server.authorize_asked import Asked
from authz_server.authorize_checks import Refused
from authz_server.parameters import Parameters
from authz_server.store.interactions import AuthorizationRequest
from registry.blocks import BlockState
from registry.snapshot import AgentRecord, ClientRecord, RegistrySnapshot
from tests.authz_server.front_half import (
    HTTPS_ISSUER,
    NOW,
    FrontHalf,
    PersonsBrowser,
    answer_of,
    is_consent,
    request_parameters,
    sample_snapshot,
)


def details(*members: object) -> str:
    return json.dumps(members)


def of_crm(*tools: str, **changes: object) -> dict[str, object]:
    detail = {"type": "mcp_tool", "server": "crm", "tools": list(tools), "actions": ["call"]}
    return {name: value for name, value in (detail | changes).items() if value is not None}


def asked(
    half: FrontHalf, username: str = "alice", **changes: Any
) -> tuple[PersonsBrowser, Response]:
    """A browser at the consent page, logged in."""
    browser = half.browser()
    page = browser.log_in(browser.authorize(**changes), username)
    assert is_consent(page), page.text
    return browser, page


def agreed(half: FrontHalf, **changes: Any) -> PersonsBrowser:
    """A browser whose person said yes."""
    browser, page = asked(half, **changes)
    assert "code" in answer_of(browser.allow(page))
    return browser


def change_server(half: FrontHalf, url: str) -> None:
    snapshot = half.live.snapshot
    crm = msgspec.structs.replace(snapshot.servers["crm"], url=url)
    half.live.snapshot = msgspec.structs.replace(snapshot, servers=snapshot.servers | {"crm": crm})


def change_tools(half: FrontHalf, **fields: object) -> None:
    snapshot = half.live.snapshot
    crm = snapshot.servers["crm"]
    tools = tuple(msgspec.structs.replace(tool, **fields) for tool in crm.tools)
    servers = snapshot.servers | {"crm": msgspec.structs.replace(crm, tools=tools)}
    half.live.snapshot = msgspec.structs.replace(snapshot, servers=servers)


def change_agent(half: FrontHalf, name: str, **changes: Any) -> None:
    record = msgspec.structs.replace(half.live.snapshot.agents[name], **changes)
    set_agents(half, {name: record})


def set_agents(half: FrontHalf, records: dict[str, AgentRecord]) -> None:
    agents = half.live.snapshot.agents | records
    half.live.snapshot = msgspec.structs.replace(half.live.snapshot, agents=agents)


def set_clients(half: FrontHalf, records: dict[str, ClientRecord]) -> None:
    clients = half.live.snapshot.clients | records
    half.live.snapshot = msgspec.structs.replace(half.live.snapshot, clients=clients)


def change_entry(half: FrontHalf, name: str, **changes: Any) -> None:
    entry = msgspec.structs.replace(half.live.snapshot.agents[name].entry, **changes)
    change_agent(half, name, entry=entry)


def judge(
    snapshot: RegistrySnapshot | None = None, blocks: BlockState | None = None, **changes: Any
) -> AuthorizationRequest | Refused:
    """What the table says of support-bot's request for crm, changed as told."""
    values = {
        name: tuple(value) if isinstance(value, list) else (value,)
        for name, value in request_parameters(**changes).items()
        if value != ""
    }
    asked = Asked(
        Parameters(values), snapshot or sample_snapshot(HTTPS_ISSUER), blocks or BlockState(), NOW
    )
    return check_authorization_request(asked)


def accepted(**changes: Any) -> AuthorizationRequest:
    request = judge(**changes)
    assert isinstance(request, AuthorizationRequest), request
    return request
