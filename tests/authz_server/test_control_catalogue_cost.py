"""What a gateway's reports of tools cost the others: one at a time, not on the event loop."""

import asyncio
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from authz_server import json_body
from authz_server.json_body import LARGE_BYTES
from authz_server.turns import MAXIMUM_WAITING
from registry.offered_tools import offered_tools
from registry.tool_catalogue import Observation
from tests.authz_server.back_half import Authority, GatewayProcess, error_of, tool

pytestmark = pytest.mark.anyio

PATH = "/control/v1/catalogue"


async def report(authority: Authority, gateway: GatewayProcess, server: str, *tools: Any) -> Any:
    token = await gateway.control_token()
    headers = gateway.control_headers(token, "catalogue", "POST")
    async with authority.http() as http:
        return await http.post(PATH, json={"server": server, "tools": tools}, headers=headers)


@pytest.mark.requirement("attack-30")
@pytest.mark.parametrize("size", [10, LARGE_BYTES + 1], ids=["small", "large"])
async def test_catalogue_large_report_is_decoded_and_every_one_digested_off_the_event_loop(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    gateway, threads = await authority.enrolled(), dict[str, int]()
    decode = json_body.decode

    def decoding(body: bytes, shape: type[object]) -> object:
        threads["decode"] = threading.get_ident()
        return decode(body, shape)

    def offering(tools: Sequence[Mapping[str, Any]]) -> object:
        threads["digest"] = threading.get_ident()
        return offered_tools(tools)

    monkeypatch.setattr(json_body, "decode", decoding)
    monkeypatch.setattr("registry.tool_catalogue.offered_tools", offering)
    described = [{**tool(f"get_{n}"), "description": "x" * (size // 2)} for n in range(2)]
    answer = await report(authority, gateway, "crm", *described)
    assert {"get_0", "get_1"} <= set(answer.json()["approved"])
    loop = threading.get_ident()
    assert (threads["decode"] == loop) == (size <= LARGE_BYTES)
    assert threads["digest"] != loop


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
