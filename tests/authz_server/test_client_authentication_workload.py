"""A workload's attestation as client authentication: which proofs name which agent."""

import asyncio
from typing import Any

import msgspec
import pytest

from registry.blocks import BlockKind
from tests.authz_server.back_half import CRM, ISSUER, NOW, Authority, Workload, error_of, payload_of
from tests.token_exchange.signing import sign

pytestmark = pytest.mark.anyio


async def test_client_authentication_attested_workload_is_its_agent(authority: Authority) -> None:
    answer = await authority.workload(1002).ask()
    assert answer.status_code == 200, answer.text
    claims = payload_of(answer.json()["access_token"])
    assert (claims["client_id"], claims["agent"]) == ("batch-bot", "batch-bot")
    assert claims["attn"]["method"] == "unix_process"


@pytest.mark.requirement("attack-5")
@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"aud": "https://elsewhere.example"}, "jwt.audience"),
        ({"aud": [ISSUER, "https://elsewhere.example"]}, "jwt.audience"),
        ({"aud": None}, "jwt.audience"),
        ({"iss": f"{ISSUER}/attest/elsewhere"}, "client.unknown"),
        ({"iss": "night-watch"}, "jwt.type"),
        ({"exp": NOW + 3600}, "jwt.lifetime"),
        ({"exp": None}, "jwt.missing"),
        ({"exp": float(NOW + 50)}, "jwt.claim"),
        ({"exp": str(NOW + 50)}, "jwt.claim"),
        ({"exp": NOW - 10, "iat": NOW - 60}, "jwt.expired"),
        ({"iat": NOW + 30, "exp": NOW + 60}, "jwt.future"),
        ({"nbf": NOW + 30}, "jwt.future"),
        ({"jti": None}, "jwt.missing"),
        ({"cnf": {}}, "attestation.key"),
        ({"evidence": {"unix.uid": "4711"}}, "agent.unknown"),
        ({"level": 0}, "agent.level"),
    ],
)
async def test_client_authentication_wrong_attestation_is_refused(
    authority: Authority, changes: dict[str, Any], rule: str
) -> None:
    workload = authority.workload(1002)
    answer = await workload.ask(client_assertion=workload.attestation(**changes))
    assert error_of(answer) == "invalid_client"
    assert answer.status_code == 401
    (event,) = authority.refusals()
    assert event.reasons == (rule,)


@pytest.mark.requirement("attack-1")
@pytest.mark.parametrize("alg", ["none", "HS256", "RS256", "ES384", None, 5])
async def test_client_authentication_other_algorithm_is_refused(
    authority: Authority, alg: object
) -> None:
    workload = authority.workload(1002)
    claims = payload_of(workload.attestation())
    forged = sign({"alg": alg, "typ": "countersign-attestation+jwt", "kid": "x"}, claims)
    assert error_of(await workload.ask(client_assertion=forged)) == "invalid_client"
    assert authority.refusals()[0].reasons == ("jwt.algorithm",)


@pytest.mark.requirement("attack-2")
@pytest.mark.parametrize(
    "header",
    [
        {"jku": "https://evil.example/jwks"},
        {"x5u": "https://evil.example/x"},
        {"jwk": {"kty": "EC"}},
        {"crit": ["b64"], "b64": False},
        {"kid": "../../etc/passwd"},
        {"kid": "' OR 1=1 --"},
        {"kid": "http://127.0.0.1/key"},
        {"kid": ["a"]},
    ],
)
async def test_client_authentication_header_that_brings_a_key_is_refused(
    authority: Authority, header: dict[str, Any]
) -> None:
    workload = authority.workload(1002)
    claims = payload_of(workload.attestation())
    head = {"alg": "ES256", "typ": "countersign-attestation+jwt", "kid": "x", **header}
    forged = sign(head, claims, workload.key)
    assert error_of(await workload.ask(client_assertion=forged)) == "invalid_client"
    assert authority.refusals()[0].reasons[0] in {"jwt.header", "jwt.key"}


@pytest.mark.requirement("attack-6")
async def test_client_authentication_token_of_another_purpose_is_refused(
    authority: Authority,
) -> None:
    workload = authority.workload(1002)
    access_token = (await workload.ask()).json()["access_token"]
    assert error_of(await workload.ask(client_assertion=access_token)) == "invalid_client"
    proof_as_assertion = workload.proof(iss=f"{ISSUER}/attest/unix")
    assert error_of(await workload.ask(client_assertion=proof_as_assertion)) == "invalid_client"


@pytest.mark.requirement("attack-5")
async def test_client_authentication_attestation_is_good_once(authority: Authority) -> None:
    workload = authority.workload(1002)
    attestation = workload.attestation()
    assert (await workload.ask(client_assertion=attestation)).status_code == 200
    assert error_of(await workload.ask(client_assertion=attestation)) == "invalid_client"
    assert authority.refusals()[0].reasons == ("replay.attestation",)


@pytest.mark.requirement("attack-5")
async def test_client_authentication_attestation_twenty_at_once_is_one_success(
    authority: Authority,
) -> None:
    workload = authority.workload(1002)
    attestation = workload.attestation()
    answers = await asyncio.gather(*(workload.ask(client_assertion=attestation) for _ in range(20)))
    assert sorted(answer.status_code for answer in answers) == [200] + [401] * 19


async def test_client_authentication_wrong_request_does_not_burn_the_attestation(
    authority: Authority,
) -> None:
    workload = authority.workload(1002)
    attestation = workload.attestation()
    wrong = await workload.ask(client_assertion=attestation, resource="https://nowhere.example")
    assert error_of(wrong) == "invalid_target"
    assert (await workload.ask(client_assertion=attestation)).status_code == 200


@pytest.mark.requirement("attack-15")
async def test_client_authentication_stolen_attestation_with_another_key_is_refused(
    authority: Authority,
) -> None:
    honest, thief = authority.workload(1002), authority.workload(1002)
    attestation = honest.attestation()
    answer = await thief.ask(client_assertion=attestation)
    assert error_of(answer) == "invalid_client"
    assert authority.refusals()[0].reasons == ("client.key",)
    assert (await honest.ask(client_assertion=attestation)).status_code == 200


@pytest.mark.parametrize(("client_id", "status"), [("batch-bot", 200), ("night-watch", 401)])
async def test_client_authentication_client_id_must_agree(
    authority: Authority, client_id: str, status: int
) -> None:
    answer = await authority.workload(1002).ask(client_id=client_id)
    assert answer.status_code == status, answer.text


@pytest.mark.requirement("attack-28")
async def test_client_authentication_attestation_from_before_a_kill_is_refused_after_restore(
    authority: Authority,
) -> None:
    workload = authority.workload(1002)
    before = workload.attestation()
    await authority.block(BlockKind.AGENT, "batch-bot")
    await authority.restore(BlockKind.AGENT, "batch-bot")
    authority.clock.now += 2
    assert error_of(await workload.ask(client_assertion=before)) == "invalid_grant"
    assert (await workload.ask()).status_code == 200


async def test_client_authentication_of_an_unattested_agent_is_refused(
    authority: Authority,
) -> None:
    stranger = Workload(authority, 1002)
    form = stranger.form(client_assertion=None, client_assertion_type=None, client_id="batch-bot")
    answer = await authority.post(form, {"dpop": stranger.proof()})
    assert error_of(answer) == "invalid_client"
    assert authority.refusals()[0].reasons == ("client.method",)
    assert (await stranger.ask(resource=CRM)).status_code == 200


async def test_client_authentication_of_an_agent_that_changed_while_keys_were_fetched(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    live, workload = authority.parts.live, authority.workload(1002)
    batch = live.snapshot.agents["batch-bot"]
    moved = msgspec.structs.replace(batch, match={"unix.uid": "4711"})
    changed = msgspec.structs.replace(
        live.snapshot, agents=live.snapshot.agents | {"batch-bot": moved}
    )
    found = authority.parts.workload_verifier(f"{ISSUER}/attest/unix")
    assert found is not None
    verifier = type(found)
    verify = verifier.verify

    async def slow(*arguments: Any) -> Any:
        found = await verify(*arguments)
        monkeypatch.setattr(type(live), "snapshot", property(lambda _: changed))
        return found

    monkeypatch.setattr(verifier, "verify", slow)
    assert error_of(await workload.ask()) == "invalid_client"
    assert authority.refusals()[-1].reasons == ("agent.unknown",)
