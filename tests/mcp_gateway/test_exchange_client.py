import asyncio
import json
from typing import Any

import msgspec
import pytest
from joserfc import jwe
from joserfc.jwk import ECKey

from audit_log.event import Outcome
from mcp_gateway.exchange_client import REMEMBERED_CREDENTIALS
from registry.blocks import BlockKind
from registry.snapshot import CredentialProviderEntry
from tests.mcp_gateway.rig import (
    ISSUER,
    NOW,
    TARGET,
    Exchange,
    FakeReply,
    Rig,
    rpc_reply,
    tool_call,
)
from tests.mcp_gateway.test_caller import revocation
from tests.mcp_gateway.test_ceiling import denied
from token_exchange.claims import (
    Actor,
    Confirmation,
    JwkThumbprint,
    UserContext,
    VerifiedJwt,
)
from token_exchange.keys import VerificationKeys
from token_exchange.token_types import CLIENT_ASSERTION_TYP
from token_exchange.verify import verify_jwt

pytestmark = pytest.mark.anyio

STATIC = "urn:countersign:params:oauth:token-type:static-secret"


def static_server(rig: Rig) -> None:
    rig.with_server(credential=CredentialProviderEntry("notes-key", "static_secret", "run", 300, 1))


def sealed(rig: Rig, secret: dict[str, str], key: ECKey | None = None) -> dict[str, Any]:
    public = ECKey.import_key(rig.gateway_key.public_jwk) if key is None else key
    value = jwe.encrypt_compact(
        {"alg": "ECDH-ES", "enc": "A256GCM"},
        json.dumps(secret).encode(),
        public,
        ["ECDH-ES", "A256GCM"],
    )
    return {
        "access_token": value,
        "issued_token_type": STATIC,
        "token_type": "N_A",
        "expires_in": 300,
    }


@pytest.mark.requirement("RFC8693-2.1")
async def test_exchange_says_who_we_are_whose_token_and_which_call(rig: Rig) -> None:
    token = rig.token()
    await rig.call("get_account", {"id": 1}, token=token)
    (form,) = rig.authority.forms
    assert form["grant_type"] == "urn:ietf:params:oauth:grant-type:token-exchange"
    assert form["subject_token"] == token
    assert form["resource"] == TARGET
    assert form["requested_token_type"] == "urn:ietf:params:oauth:token-type:access_token"
    (intent,) = rig.events("call.decided")
    assert json.loads(form["authorization_details"]) == [
        {
            "type": "mcp_tool_call",
            "server": "crm",
            "tool": "get_account",
            "args_sha256": intent.argument_digest,
            "decision": intent.decision_id,
        }
    ]
    assertion = verify_jwt(
        form["client_assertion"],
        keys=VerificationKeys.of((rig.gateway_key.public_jwk,)),
        algorithms=frozenset({"ES256"}),
        typ=CLIENT_ASSERTION_TYP,
        issuer="gateway:demo",
        audience=ISSUER,
        now=NOW,
        maximum_lifetime_seconds=60,
        require=("exp", "iat", "jti", "sub"),
    )
    assert isinstance(assertion, VerifiedJwt)
    assert assertion.claims["sub"] == "gateway:demo"
    assert rig.authority.requests[0].url == f"{ISSUER}/oauth/token"


async def test_credential_of_a_run_is_obtained_once_for_all_its_tools(rig: Rig) -> None:
    for _ in range(3):
        await rig.call("get_account", {"id": 1})
        await rig.call("refund", {"amount": 1})
    assert len(rig.authority.forms) == 1


async def test_credential_of_a_run_outlives_a_refresh_of_the_token(rig: Rig) -> None:
    await rig.call("get_account", {"id": 1})
    await rig.call(
        "get_account", {"id": 1}, token=rig.token(rig.claims(jti="tok_2", exp=NOW + 700))
    )
    assert len(rig.authority.forms) == 1


@pytest.mark.requirement("C27")
@pytest.mark.requirement("trap-cross-user")
@pytest.mark.parametrize(
    "changes",
    [
        {"sub": "usr_bob"},
        {"client_id": "other-client"},
        {"sid": "ses_2"},
        {"gid": "grt_2"},
        {"inv": "inv_2"},
        {"txn": "txn_2"},
        {"uctx": UserContext(groups=("local/support", "local/staff"))},
        {"act": Actor("other", "unix:host/1/x", "ai_agent", "support-bot")},
        {
            "act": Actor(
                ISSUER,
                "unix:x",
                "ai_agent",
                "support-bot",
                Actor(ISSUER, "unix:y", "ai_agent", "other-bot"),
            )
        },
    ],
)
async def test_whoever_differs_in_anything_gets_a_credential_of_their_own(
    rig: Rig, changes: dict[str, Any]
) -> None:
    await rig.call("get_account", {"id": 1})
    await rig.call("get_account", {"id": 1}, token=rig.token(rig.claims(**changes)))
    assert len(rig.authority.forms) == 2


async def test_another_key_gets_a_credential_of_its_own(rig: Rig) -> None:
    await rig.call("get_account", {"id": 1})
    rig.agent_key = ECKey.generate_key("P-256")
    thumbprint = JwkThumbprint(rig.agent_key.thumbprint())
    await rig.call("get_account", {}, token=rig.token(rig.claims(cnf=Confirmation(thumbprint))))
    assert len(rig.authority.forms) == 2


async def test_new_version_of_the_provider_is_asked_again(rig: Rig) -> None:
    await rig.call("get_account", {"id": 1})
    rig.with_server(credential=CredentialProviderEntry("crm-token", "issued_token", "run", 300, 2))
    await rig.call("get_account", {"id": 1})
    assert len(rig.authority.forms) == 2


async def test_credential_near_its_end_is_renewed_and_a_short_one_never_kept(rig: Rig) -> None:
    await rig.call("get_account", {"id": 1})
    rig.clock.now = NOW + 269
    await rig.call("get_account", {"id": 1})
    assert len(rig.authority.forms) == 1
    rig.clock.now = NOW + 270
    await rig.call("get_account", {"id": 1})
    assert len(rig.authority.forms) == 2
    rig.authority.answer["expires_in"] = 30
    rig.clock.now = NOW + 560
    for _ in range(2):
        await rig.call("get_account", {"id": 1})
    assert len(rig.authority.forms) == 4


async def test_credential_bound_to_the_call_is_never_kept(rig: Rig) -> None:
    rig.with_server(credential=CredentialProviderEntry("crm-token", "issued_token", "call", 300, 1))
    for _ in range(3):
        await rig.call("get_account", {"id": 1})
    decisions = {
        json.loads(form["authorization_details"])[0]["decision"] for form in rig.authority.forms
    }
    assert len(decisions) == 3


async def test_concurrent_calls_of_one_run_wait_for_one_exchange(rig: Rig) -> None:
    release = asyncio.Event()
    rig.authority.before = release.wait  # type: ignore[assignment]
    exchanges = [Exchange() for _ in range(5)]
    tasks = [
        rig.start(exchange, rig.http(tool_call("get_account", {"id": 1}))) for exchange in exchanges
    ]
    while not rig.authority.forms:  # noqa: ASYNC110 - one pass of the loop is enough
        await asyncio.sleep(0)
    release.set()
    await asyncio.gather(*tasks)
    assert [exchange.status for exchange in exchanges] == [200] * 5
    assert len(rig.authority.forms) == 1
    assert not rig.parts.exchange._flights


async def test_caller_that_leaves_during_the_exchange_does_not_stop_the_others(rig: Rig) -> None:
    release = asyncio.Event()
    rig.authority.before = release.wait  # type: ignore[assignment]
    leaving, staying = Exchange(), Exchange()
    first = rig.start(leaving, rig.http(tool_call("get_account", {"id": 1})))
    while not rig.authority.forms:  # noqa: ASYNC110 - one pass of the loop is enough
        await asyncio.sleep(0)
    second = rig.start(staying, rig.http(tool_call("get_account", {"id": 2})))
    leaving.gone.set()
    await first
    release.set()
    await second
    assert staying.status == 200
    outcomes = {event.outcome for event in rig.events("call.finished")}
    assert outcomes == {Outcome.CANCELLED, Outcome.SUCCEEDED}


@pytest.mark.requirement("attack-28")
async def test_revocation_drops_the_credential_of_its_subject_only(rig: Rig) -> None:
    await rig.call("get_account", {"id": 1})
    await rig.call("get_account", {}, token=rig.token(rig.claims(sub="usr_bob")))
    assert rig.parts.exchange.forget(revocation(BlockKind.SUBJECT, "usr_bob")) == 1
    await rig.call("get_account", {"id": 1})
    assert len(rig.authority.forms) == 2


async def test_exchange_under_way_at_a_revocation_is_not_kept(rig: Rig) -> None:
    async def revoke_someone() -> None:
        event = revocation(BlockKind.SUBJECT, f"usr_{len(rig.authority.forms)}")
        sequence = len(rig.authority.forms)
        rig.parts.enforcement.apply(msgspec.structs.replace(event, sequence=sequence))

    rig.authority.before = revoke_someone
    for _ in range(2):
        assert (await rig.call("get_account", {"id": 1})).status == 200
    assert len(rig.authority.forms) == 2


async def test_epoch_gives_a_credential_of_its_own(rig: Rig) -> None:
    await rig.call("get_account", {"id": 1})
    epoch = revocation(BlockKind.SUBJECT, "usr_alice", blocked=False, not_before=NOW - 100)
    rig.parts.enforcement.apply(epoch)
    await rig.call("get_account", {"id": 1})
    assert len(rig.authority.forms) == 2


@pytest.mark.requirement("upstream-401-renews-once")
async def test_server_that_refuses_a_kept_credential_gets_one_fresh_one(rig: Rig) -> None:
    rig.upstream.will(FakeReply(status=401), rpc_reply(1, {"content": []}))
    assert (await rig.call("get_account", {"id": 1})).status == 200
    assert len(rig.authority.forms) == 2
    assert len(rig.upstream.requests) == 2
    assert len(rig.events("call.finished")) == 1


def numbered_credentials(rig: Rig) -> None:
    """Every exchange gives another one: `credential-1-of-the-server` and so on."""

    async def number() -> None:
        number = len(rig.authority.forms)
        rig.authority.answer["access_token"] = f"credential-{number}-of-the-server"

    rig.authority.before = number


def echo_of(number: int) -> FakeReply:
    text = f"your token was credential-{number}-of-the-server"
    return rpc_reply(1, {"content": [{"type": "text", "text": text}]})


@pytest.mark.requirement("credential-never-echoed")
@pytest.mark.parametrize(("echoed", "status"), [(1, 502), (2, 502), (3, 200)])
async def test_refused_credential_is_not_echoed_by_the_second_reply_either(
    rig: Rig, echoed: int, status: int
) -> None:
    numbered_credentials(rig)
    rig.upstream.will(FakeReply(status=401), echo_of(echoed))
    exchange = await rig.call("get_account", {"id": 1})
    assert exchange.status == status
    assert (b"credential-" in exchange.body) == (status == 200)
    (outcome,) = rig.events("call.finished")
    assert outcome.error_code == ("credential_echoed" if status == 502 else None)


@pytest.mark.requirement("credential-never-echoed")
async def test_refused_credential_that_could_not_be_kept_is_not_echoed_either(rig: Rig) -> None:
    numbered_credentials(rig)
    rig.authority.answer["expires_in"] = 30
    rig.upstream.will(FakeReply(status=401), echo_of(1))
    assert (await rig.call("get_account", {"id": 1})).status == 502


@pytest.mark.requirement("credential-never-echoed")
async def test_credential_of_earlier_calls_is_not_echoed_while_it_is_valid(rig: Rig) -> None:
    numbered_credentials(rig)
    await rig.call("get_account", {"id": 1})
    rig.clock.now = NOW + 270
    rig.upstream.will(echo_of(1))
    assert (await rig.call("get_account", {"id": 1})).status == 502
    rig.clock.now = NOW + 540  # the first is worth nothing any more, the second still is
    assert (await rig.call("get_account", {"id": 1})).status == 200
    rig.upstream.will(echo_of(2))
    assert (await rig.call("get_account", {"id": 1})).status == 502
    assert len(rig.authority.forms) == 3


async def test_server_that_refuses_all_the_time_is_not_searched_for_ever_more(rig: Rig) -> None:
    numbered_credentials(rig)
    await rig.call("get_account", {"id": 1})
    rig.upstream.will(FakeReply(status=401))
    for _ in range(2 * REMEMBERED_CREDENTIALS):
        await rig.call("get_account", {"id": 1})
    (cached,) = rig.parts.exchange._cache._entries.values()
    assert len(cached.given) == REMEMBERED_CREDENTIALS
    one = cached.given[0].traces
    assert len(cached.credential.traces) <= REMEMBERED_CREDENTIALS * len(one)


async def test_server_that_keeps_refusing_is_an_error_and_no_challenge(rig: Rig) -> None:
    rig.upstream.will(FakeReply(status=401, body=(b"{}",)))
    exchange = await rig.call("get_account", {"id": 1})
    assert exchange.status == 502
    assert exchange.header("www-authenticate") == []
    assert len(rig.upstream.requests) == 2


async def test_server_that_refuses_a_credential_of_the_call_is_not_asked_again(rig: Rig) -> None:
    rig.with_server(credential=CredentialProviderEntry("crm-token", "issued_token", "call", 300, 1))
    rig.upstream.will(FakeReply(status=401, body=(b"{}",)))
    assert (await rig.call("get_account", {"id": 1})).status == 502
    assert len(rig.authority.forms) == 1


@pytest.mark.parametrize(
    ("code", "status", "outcome"),
    [
        ("access_denied", 200, Outcome.DENIED),
        ("invalid_grant", 401, Outcome.DENIED),
        ("invalid_request", 401, Outcome.DENIED),
        ("invalid_target", 503, Outcome.FAILED),
        ("server_error", 503, Outcome.FAILED),
    ],
)
async def test_authority_that_refuses_has_the_last_word(
    rig: Rig, code: str, status: int, outcome: Outcome
) -> None:
    rig.authority.status, rig.authority.answer = 400, {"error": code}
    exchange = await rig.call("get_account", {"id": 1})
    assert exchange.status == status
    if code == "access_denied":
        denied(exchange)
    assert not rig.upstream.requests
    finished = rig.events("call.finished")[-1]
    assert (finished.outcome, finished.error_code) == (outcome, code)


@pytest.mark.parametrize(
    "change",
    [
        {"issued_token_type": STATIC},
        {"access_token": "a\r\nX: y"},
        {"access_token": ""},
        {"access_token": 7},
        {"expires_in": "soon"},
    ],
)
async def test_authority_that_answers_nonsense_is_not_believed(
    rig: Rig, change: dict[str, Any]
) -> None:
    rig.authority.answer.update(change)
    assert (await rig.call("get_account", {"id": 1})).status == 503
    assert not rig.upstream.requests


async def test_authority_that_is_away_is_an_error_that_can_be_retried(rig: Rig) -> None:
    rig.authority.is_away = True
    exchange = await rig.call("get_account", {"id": 1})
    assert exchange.status == 503
    assert exchange.json["error"]["data"]["retryable"] is True


async def test_static_secret_is_unsealed_and_sent_in_its_header(rig: Rig) -> None:
    static_server(rig)
    rig.authority.answer = sealed(rig, {"header": "X-Api-Key", "value": "s3cr3t-value"})
    assert (await rig.call("get_account", {"id": 1})).status == 200
    assert rig.authority.forms[0]["requested_token_type"] == STATIC
    assert rig.upstream.sent_header("x-api-key") == "s3cr3t-value"
    assert rig.upstream.sent_header("authorization") is None


@pytest.mark.parametrize(
    "secret",
    [
        {"header": "Host", "value": "evil.example"},
        {"header": "Mcp-Name", "value": "refund"},
        {"header": "Content-Length", "value": "0"},
        {"header": "X\r\nY", "value": "v"},
        {"header": "X-Api-Key", "value": "a\r\nHost: evil"},
        {"header": "X-Api-Key", "value": ""},
        {"value": "x"},
    ],
)
async def test_static_secret_that_cannot_stand_in_a_header_is_refused(
    rig: Rig, secret: dict[str, str]
) -> None:
    static_server(rig)
    rig.authority.answer = sealed(rig, secret)
    assert (await rig.call("get_account", {"id": 1})).status == 503
    assert not rig.upstream.requests


async def test_static_secret_sealed_to_another_gateway_is_refused(rig: Rig) -> None:
    static_server(rig)
    secret = {"header": "X-Api-Key", "value": "s3cr3t-value"}
    rig.authority.answer = sealed(rig, secret, ECKey.generate_key("P-256"))
    assert (await rig.call("get_account", {"id": 1})).status == 503
