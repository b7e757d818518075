"""A legacy session belongs to one principal at one endpoint, for a while, and proves nothing."""

import base64
import itertools
import secrets
from typing import Any

import msgspec
import pytest
from joserfc.jwk import ECKey

from mcp_gateway.caller import Caller, Presented
from mcp_gateway.eras import sessions as limits
from mcp_gateway.eras.legacy import ClientInfo
from mcp_gateway.eras.sealed_session import PURPOSE, Session, SessionSeal, principal_of
from mcp_gateway.eras.sessions import Sessions
from mcp_gateway.gateway_key import GatewayKey
from mcp_gateway.inbound import Rejection
from registry.blocks import BlockKind
from tests.mcp_gateway.legacy_agent import LATEST, LegacyAgent, agent_of, bob, call, request
from tests.mcp_gateway.rig import NOW, Exchange, HttpCall, Rig, server_entry
from tests.mcp_gateway.test_caller import revocation
from tests.mcp_gateway.test_inbound import error_of
from token_exchange.claims import Actor

pytestmark = pytest.mark.anyio

ACCOUNT = call("get_account", {"id": 1})
GONE = "There is no such session."


def seal(key: bytes = bytes(32)) -> SessionSeal:
    return SessionSeal(key, secrets.token_bytes)


def session(**changes: Any) -> Session:
    own = Session("mcp_1", "principal", "http://gw/crm/mcp", LATEST, NOW, ClientInfo("a", "1"))
    return msgspec.structs.replace(own, **changes)


async def every_way(agent: LegacyAgent) -> list[Exchange]:
    """Each kind of request on the agent's session."""
    return [
        await agent.post(ACCOUNT),
        await agent.ask("tools/list"),
        await agent.ask("ping"),
        await agent.ask("no/such"),
        await agent.tell("notifications/cancelled", {"requestId": 1}),
        await agent.tell("notifications/initialized"),
        await agent.rig.send(agent.bodiless("GET")),
        await agent.delete(),
    ]


async def refused_in_every_way(agent: LegacyAgent, status: int = 404) -> None:
    calls = len(agent.rig.upstream.requests)
    refusals = len(agent.rig.events("call.refused"))
    answers = await every_way(agent)
    assert {error_of(answer) for answer in answers} == {(status, -32600)}
    assert len({answer.json["error"]["message"] for answer in answers}) == 1
    assert len(agent.rig.events("call.refused")) == refusals + len(answers)
    assert len(agent.rig.upstream.requests) == calls


# Whose it is


@pytest.mark.requirement("trap-session-swapped")
async def test_session_presented_with_another_persons_token_is_not_found(rig: Rig) -> None:
    alice, other = await agent_of(rig), await bob(rig)
    alice.session, other.session = other.session, alice.session
    await refused_in_every_way(alice)
    await refused_in_every_way(other)
    assert rig.events("call.refused")[-1].detail == "the session is another principal's"
    alice.session, other.session = other.session, alice.session
    assert (await alice.post(ACCOUNT)).status == 200
    assert (await other.post(ACCOUNT)).status == 200


@pytest.mark.requirement("trap-session-swapped")
@pytest.mark.parametrize(
    "changes",
    [
        {"sub": "usr_bob"},
        {"client_id": "another-client"},
        {"act": Actor("https://as", "unix:host/1/x", "ai_agent", "other-bot")},
        {
            "act": Actor(
                "https://as",
                "x",
                "ai_agent",
                "support-bot",
                Actor("https://as", "y", "ai_agent", "other-bot"),
            )
        },
    ],
    ids=["person", "client", "agent", "chain"],
)
async def test_session_is_of_the_whole_blended_identity(rig: Rig, changes: dict[str, Any]) -> None:
    alice = await agent_of(rig)
    other = LegacyAgent(rig, token=rig.token(rig.claims(**changes)))
    other.session = alice.session
    assert error_of(await other.ask("ping")) == (404, -32600)


async def test_session_goes_on_with_a_fresh_token_of_the_same_principal(rig: Rig) -> None:
    agent = await agent_of(rig)
    agent.token = rig.token(rig.claims(jti="tok_9", inv="inv_9", exp=NOW + 700))
    assert (await agent.post(ACCOUNT)).status == 200


async def test_session_is_no_authentication(rig: Rig) -> None:
    agent = await agent_of(rig)
    for message in (ACCOUNT, request("ping")):
        exchange = await agent.post(message, {"authorization": None, "dpop": None})
        assert exchange.status == 401
    replayed = agent.http(ACCOUNT)
    assert (await rig.send(replayed)).status == 200
    assert (await rig.send(replayed)).status == 401  # the proof was used
    rig.parts.enforcement.apply(revocation(BlockKind.SUBJECT, "usr_alice"))
    assert (await agent.ask("ping")).status == 401
    assert (await rig.send(agent.bodiless("GET"))).status == 401
    assert (await agent.delete()).status == 401
    assert {event.request_method for event in rig.events("caller.refused")} == {
        "POST",
        "GET",
        "DELETE",
    }


async def test_session_of_another_endpoint_is_not_found(rig: Rig) -> None:
    agent = await agent_of(rig)
    rig.adopt(
        msgspec.structs.replace(
            rig.view, version=8, servers=(server_entry(), server_entry(name="notes"))
        )
    )
    claims = rig.claims(aud="http://127.0.0.1:8701/notes/mcp")
    elsewhere = LegacyAgent(rig, token=rig.token(claims))
    elsewhere.session = agent.session
    sent = elsewhere.http(request("ping"))
    proof = rig.proof(elsewhere.token, htu="http://127.0.0.1:8701/notes/mcp")
    lines = tuple(
        (name, proof.encode() if name == b"dpop" else value) for name, value in sent.headers
    )
    exchange = await rig.send(HttpCall(headers=lines, body=sent.body, path="/notes/mcp"))
    assert error_of(exchange) == (404, -32600)
    assert rig.events("call.refused")[-1].detail == "the session is of another endpoint"


async def test_request_without_a_session_is_refused(rig: Rig) -> None:
    agent = await agent_of(rig)
    agent.session = None
    await refused_in_every_way(agent, 400)


async def test_get_that_claims_no_session_at_all_is_405(rig: Rig) -> None:
    agent = await agent_of(rig)
    for method in ("GET", "DELETE"):
        plain = agent.bodiless(method, mcp_session_id=None, mcp_protocol_version=None)
        exchange = await rig.send(plain)
        assert (exchange.status, exchange.header("allow")) == (405, ["POST"])


@pytest.mark.parametrize("method", ["PUT", "HEAD", "OPTIONS"])
async def test_other_method_on_a_session_is_405(rig: Rig, method: str) -> None:
    agent = await agent_of(rig)
    assert (await rig.send(agent.bodiless(method))).status == 405


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"accept": "application/json"}, 406),
        ({"content_length": "2"}, 400),
        ({"transfer_encoding": "chunked"}, 400),
        ({"mcp_protocol_version": "2025-03-26"}, 400),
        ({"origin": "https://evil.example"}, 403),
        ({"host": "evil.example"}, 403),
    ],
)
async def test_get_in_another_form_is_refused(
    rig: Rig, headers: dict[str, str], status: int
) -> None:
    agent = await agent_of(rig)
    assert (await rig.send(agent.bodiless("GET", **headers))).status == status
    assert rig.events("call.refused")


# The id


@pytest.mark.requirement("trap-session-readable")
async def test_id_is_sealed_and_says_nothing(rig: Rig) -> None:
    agent = await agent_of(rig)
    assert agent.session is not None
    raw = base64.urlsafe_b64decode(agent.session + "=" * (-len(agent.session) % 4))
    for word in (b"alice", b"crm", b"support", b"2025", LATEST.encode()):
        assert word not in raw
    assert (await agent_of(rig)).session != agent.session


def test_seal_opens_what_it_sealed_and_nothing_else() -> None:
    sealed = seal().seal(session())
    assert seal().open(sealed) == session()
    assert seal(b"\1" * 32).open(sealed) is None
    for text in ("", "x", "é", sealed + "=", sealed[:-1], sealed + "A", " " + sealed, "A" * 5000):
        assert seal().open(text) is None


@pytest.mark.requirement("trap-session-readable")
def test_seal_notices_every_changed_byte() -> None:
    sealed = seal().seal(session())
    raw = bytearray(base64.urlsafe_b64decode(sealed + "=" * (-len(sealed) % 4)))
    for position in range(len(raw)):
        raw[position] ^= 1
        tampered = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
        assert seal().open(tampered) is None
        raw[position] ^= 1


def test_id_has_one_spelling() -> None:
    """Base64 leaves bits over at its end: the same bytes, another text."""
    texts = (seal().seal(session(uid="u" * length)) for length in range(20, 26))
    sealed = next(text for text in texts if len(text) % 4)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    opened = [last for last in alphabet if seal().open(sealed[:-1] + last) is not None]
    assert opened == [sealed[-1]]


@pytest.mark.requirement("trap-session-kdf")
def test_key_of_the_seal_is_the_gateways_own_and_of_this_purpose() -> None:
    one, other = (GatewayKey(ECKey.generate_key("P-256"), secrets.token_bytes) for _ in "ab")
    assert one.derived(PURPOSE) == one.derived(PURPOSE)
    assert len({key.derived(purpose) for key in (one, other) for purpose in (PURPOSE, b"x")}) == 4
    public = GatewayKey(ECKey.import_key(one.public_jwk), secrets.token_bytes)
    with pytest.raises(ValueError, match="no private part"):
        public.derived(PURPOSE)


def test_principal_is_independent_of_token_key_and_run(rig: Rig) -> None:
    view = rig.parts.enforcement.view
    assert view is not None
    endpoint = view.endpoints["/crm/mcp"]

    def digest(**changes: object) -> str:
        offered = Presented("DPoP", rig.token(rig.claims(**changes)), None)
        caller = rig.parts.callers.resolve(offered, endpoint, view, NOW)
        assert isinstance(caller, Caller)
        return principal_of(caller)

    assert digest() == digest(jti="x", inv="y", sid="z", exp=NOW + 1)
    assert digest() != digest(sub="usr_bob")


# Its end


async def test_deleted_session_is_gone_and_others_live(rig: Rig) -> None:
    agent, other = await agent_of(rig), await agent_of(rig)
    ended = await agent.delete()
    assert (ended.status, ended.body) == (204, b"")
    await refused_in_every_way(agent)
    assert rig.events("call.refused")[-1].detail == "the session has ended"
    assert (await other.ask("ping")).status == 200
    await agent.initialize()
    assert (await agent.ask("ping")).status == 200


async def test_session_ends_when_it_was_idle_for_too_long(rig: Rig) -> None:
    used, idle = await agent_of(rig), await agent_of(rig)
    rig.clock.now += limits.IDLE_SECONDS - 1
    used.token = idle.token = rig.token(rig.claims(iat=NOW + 1700, exp=NOW + 2500))
    assert (await used.ask("ping")).status == 200
    rig.clock.now += 1
    assert error_of(await idle.ask("ping")) == (404, -32600)
    assert (await used.ask("ping")).status == 200
    assert rig.events("call.refused")[-1].detail == "the session was idle for too long"


async def test_session_ends_when_its_lifetime_is_over_however_often_it_is_used(rig: Rig) -> None:
    agent = await agent_of(rig)
    while rig.clock.now < NOW + limits.LIFETIME_SECONDS - 1000:
        rig.clock.now += 1000
        now = int(rig.clock.now)
        agent.token = rig.token(rig.claims(iat=now - 1, exp=now + 800))
        assert (await agent.ask("ping")).status == 200
    rig.clock.now = NOW + limits.LIFETIME_SECONDS
    now = int(rig.clock.now)
    agent.token = rig.token(rig.claims(iat=now - 1, exp=now + 800))
    assert error_of(await agent.ask("ping")) == (404, -32600)


def memory() -> Sessions:
    return Sessions(seal(), secrets.token_bytes)


class Someone:
    """Callers at the rig's endpoint."""

    def __init__(self, rig: Rig) -> None:
        view = rig.parts.enforcement.view
        assert view is not None
        self.endpoint = view.endpoints["/crm/mcp"]

        def resolve(sub: str) -> Caller:
            offered = Presented("DPoP", rig.token(rig.claims(sub=sub)), None)
            caller = rig.parts.callers.resolve(offered, self.endpoint, view, NOW)
            assert isinstance(caller, Caller)
            return caller

        self.alice, self.bob = resolve("usr_alice"), resolve("usr_bob")


def test_restart_keeps_a_young_session_and_no_old_one(rig: Rig) -> None:
    who, before = Someone(rig), memory()
    sealed = before.begin(who.alice, who.endpoint, LATEST, None, NOW)
    assert isinstance(sealed, str)
    young = memory().enter(sealed, LATEST, who.alice, who.endpoint, NOW + 100)
    assert isinstance(young, Session)
    old = memory().enter(sealed, LATEST, who.alice, who.endpoint, NOW + limits.IDLE_SECONDS)
    assert isinstance(old, Rejection)


def test_principal_with_too_many_sessions_loses_the_one_used_longest_ago(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SESSIONS_PER_HOLDER", 3)
    who, kept = Someone(rig), memory()
    clock = itertools.count(NOW)

    def open_one(caller: Any = who.alice) -> str:
        sealed = kept.begin(caller, who.endpoint, LATEST, None, next(clock))
        assert isinstance(sealed, str)
        return sealed

    def lives(sealed: str, caller: Any = who.alice) -> bool:
        entered = kept.enter(sealed, None, caller, who.endpoint, next(clock))
        return isinstance(entered, Session)

    bobs = open_one(who.bob)
    first, second, third = open_one(), open_one(), open_one()
    assert lives(first)
    fourth = open_one()
    assert not lives(second)
    assert lives(first)
    assert lives(third)
    assert lives(fourth)
    assert lives(bobs, who.bob)
    assert len(kept) == 4


def test_memory_is_bounded_and_a_newcomer_costs_nobody_a_session(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAXIMUM_SESSIONS", 2)
    who, kept = Someone(rig), memory()
    sealed = [kept.begin(who.alice, who.endpoint, LATEST, None, NOW) for _ in range(3)]
    assert len(kept) == 2
    full = kept.begin(who.bob, who.endpoint, LATEST, None, NOW)
    assert isinstance(full, Rejection)
    assert full.status == 503
    alive = kept.enter(str(sealed[2]), None, who.alice, who.endpoint, NOW)
    assert isinstance(alive, Session)
    later = NOW + limits.IDLE_SECONDS  # what is idle makes room
    assert isinstance(kept.begin(who.bob, who.endpoint, LATEST, None, later), str)
    assert len(kept) == 1


async def test_session_that_cannot_be_kept_is_refused_and_audited(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAXIMUM_SESSIONS", 0)
    exchange = await LegacyAgent(rig).initialize()
    assert error_of(exchange) == (503, -32600)
    assert not exchange.header("mcp-session-id")
    assert rig.events("call.refused")
