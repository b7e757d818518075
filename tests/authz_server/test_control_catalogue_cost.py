"""What a gateway's reports of tools cost the others: one at a time, a tool at a time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from audit_log.event import EventType
from authz_server.endpoints import control
from authz_server.reported_tools import tools_of
from authz_server.turns import MAXIMUM_WAITING
from registry.offered_tools import offered_tools
from registry.tool_catalogue import Observation
from registry.tool_digest import MAXIMUM_DEFINITION_BYTES
from tests.authz_server.back_half import Authority, GatewayProcess, error_of, tool
from token_exchange.claims import Refusal

pytestmark = pytest.mark.anyio

PATH = "/control/v1/catalogue"


async def report(authority: Authority, gateway: GatewayProcess, server: str, *tools: Any) -> Any:
    return await sent_as(
        authority, gateway, msgspec.json.encode({"server": server, "tools": tools})
    )


async def sent_as(authority: Authority, gateway: GatewayProcess, body: bytes) -> Any:
    token = await gateway.control_token()
    headers = gateway.control_headers(token, "catalogue", "POST")
    headers = {**headers, "content-type": "application/json"}
    async with authority.http() as http:
        return await http.post(PATH, content=body, headers=headers)


@asynccontextmanager
async def rounds() -> AsyncIterator[list[None]]:
    """How often the event loop came to somebody else meanwhile."""
    came: list[None] = []

    async def beat() -> None:
        while True:
            came.append(None)
            await asyncio.sleep(0)

    beating = asyncio.create_task(beat())
    try:
        yield came
    finally:
        beating.cancel()


@pytest.mark.requirement("attack-30")
async def test_catalogue_event_loop_goes_on_between_two_tools() -> None:
    sent = [msgspec.Raw(msgspec.json.encode(tool(f"get_{n}"))) for n in range(100)]
    async with rounds() as decoding:
        tools = await tools_of(sent)
    assert not isinstance(tools, Refusal)
    async with rounds() as digesting:
        offered, refused = await offered_tools(tools)
    assert (len(offered), refused) == (100, ())
    assert min(len(decoding), len(digesting)) >= 100


@pytest.mark.requirement("attack-30")
@pytest.mark.parametrize("of", [{"name": "get"}, {"name": 7}, {}], ids=["named", "number", "none"])
async def test_catalogue_definition_over_its_bound_is_never_decoded_but_for_its_name(
    of: dict[str, object],
) -> None:
    long = {"padding": "x" * MAXIMUM_DEFINITION_BYTES, **of}
    short = {"padding": "x", **of}
    sent = [msgspec.Raw(msgspec.json.encode(each)) for each in (long, short)]
    assert await tools_of(sent) == [{} if of != {"name": "get"} else of, short]


@pytest.mark.requirement("attack-30")
async def test_catalogue_name_of_a_definition_over_its_bound_is_offered_twice(
    authority: Authority,
) -> None:
    gateway = await authority.enrolled()
    long = {**tool("doubled"), "description": "x" * MAXIMUM_DEFINITION_BYTES}
    answer = await report(authority, gateway, "crm", tool("doubled"), long, tool("single"))
    assert "single" in answer.json()["approved"]
    assert "doubled" not in answer.json()["approved"]
    (event,) = authority.spool.of(EventType.CATALOGUE_CHANGED)
    assert event.detail == "3 tools seen, 1 refused as tools"


@pytest.mark.requirement("attack-30")
@pytest.mark.parametrize(
    "what", ["7", "[]", '"x"', '{"name":"\\ud800"}', "[" * 60_000 + "]" * 60_000]
)
async def test_catalogue_report_of_what_is_no_object_is_refused(
    authority: Authority, what: str
) -> None:
    gateway = await authority.enrolled()
    body = b'{"server":"crm","tools":[%b]}' % what.encode()
    assert error_of(await sent_as(authority, gateway, body)) == "invalid_request"
    assert authority.refusals()[-1].reasons == ("body.form",)
    assert authority.parts.server_reports.all() == ()


@pytest.mark.requirement("attack-30")
async def test_catalogue_report_of_more_values_than_a_list_of_tools_has_is_refused(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = await authority.enrolled()
    body = msgspec.json.encode({"server": "crm", "tools": [tool("x")]})
    monkeypatch.setattr(control, "MAXIMUM_COMMAS", body.count(b",") - 1)
    assert error_of(await sent_as(authority, gateway, body)) == "invalid_request"
    assert authority.refusals()[-1].detail == "too many values"
    monkeypatch.setattr(control, "MAXIMUM_COMMAS", body.count(b","))
    assert (await sent_as(authority, gateway, body)).status_code == 200


@pytest.mark.requirement("attack-30")
async def test_catalogue_reports_of_one_gateway_come_one_at_a_time_and_hold_up_no_other(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = await authority.enrolled(), await authority.enrolled("other")
    open_now, most = dict[str, int](), dict[str, int]()
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def observe(server: str, *_: object, **__: object) -> Observation:
        gateway = "other" if server == "ledger" else "demo"
        open_now[gateway] = open_now.get(gateway, 0) + 1
        most[gateway] = max(most.get(gateway, 0), open_now[gateway])
        inside.set()
        if gateway == "demo":
            await go_on.wait()
        open_now[gateway] -= 1
        return Observation((), (), changed=False)

    monkeypatch.setattr(authority.parts.catalogue, "observe", observe)
    async with asyncio.TaskGroup() as tasks:
        servers = ["crm", "notes", "crm"]
        waiting = [tasks.create_task(report(authority, one, each)) for each in servers]
        await inside.wait()
        assert (await report(authority, other, "ledger")).status_code == 200
        assert (open_now, [each.done() for each in waiting]) == (
            {"demo": 1, "other": 0},
            [False] * 3,
        )
        go_on.set()
    assert [each.result().status_code for each in waiting] == [200] * 3
    assert most == {"demo": 1, "other": 1}


@pytest.mark.requirement("attack-30")
async def test_catalogue_report_without_a_place_to_wait_is_refused_and_taken_later(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = await authority.enrolled()
    monkeypatch.setattr("authz_server.turns.MAXIMUM_WAITING", 0)
    assert error_of(await report(authority, gateway, "crm", tool("x"))) == "temporarily_unavailable"
    assert authority.refusals()[-1].reasons == ("catalogue.busy",)
    monkeypatch.setattr("authz_server.turns.MAXIMUM_WAITING", MAXIMUM_WAITING)
    assert (await report(authority, gateway, "crm", tool("x"))).status_code == 200
