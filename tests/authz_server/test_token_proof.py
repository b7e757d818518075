"""DPoP at the token endpoint (RFC 9449 §5): one proof, by the proved key, once."""

import asyncio
from typing import Any

import pytest

from tests.authz_server.back_half import ISSUER, NOW, TOKEN_URI, Authority, error_of

pytestmark = pytest.mark.anyio


@pytest.mark.requirement("attack-15")
@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"method": "GET"}, "dpop.method"),
        ({"uri": f"{ISSUER}/oauth/authorize"}, "dpop.uri"),
        ({"uri": "https://127.0.0.1:8700/oauth/token"}, "dpop.uri"),
        ({"uri": "not a uri"}, "dpop.uri"),
        ({"iat": NOW - 61}, "dpop.age"),
        ({"iat": NOW + 6}, "dpop.age"),
        ({"iat": str(NOW)}, "dpop.claim"),
        ({"jti": "short"}, "dpop.claim"),
        ({"jti": 12345678}, "dpop.claim"),
        ({"header": {"typ": "JWT"}}, "dpop.type"),
        ({"header": {"alg": "none"}}, "dpop.algorithm"),
        ({"header": {"alg": "HS256"}}, "dpop.algorithm"),
        ({"header": {"jwk": None}}, "dpop.key"),
        ({"header": {"crit": ["x"]}}, "dpop.header"),
        ({"header": {"b64": False}}, "dpop.header"),
        ({"header": {"jku": "https://evil.example"}}, "dpop.header"),
    ],
)
async def test_token_wrong_proof_is_refused(
    authority: Authority, changes: dict[str, Any], rule: str
) -> None:
    workload = authority.workload(1002)
    answer = await authority.post(workload.form(), {"dpop": workload.proof(**changes)})
    assert error_of(answer) == "invalid_dpop_proof"
    assert authority.refusals()[0].reasons == (rule,)


@pytest.mark.requirement("attack-15")
async def test_token_proof_with_a_private_key_is_refused(authority: Authority) -> None:
    workload = authority.workload(1002)
    private = workload.key.as_dict(private=True)
    answer = await authority.post(
        workload.form(), {"dpop": workload.proof(header={"jwk": private})}
    )
    assert error_of(answer) == "invalid_dpop_proof"


@pytest.mark.parametrize(
    "uri", [TOKEN_URI, f"{TOKEN_URI}?x=1", "HTTP://127.0.0.1:8700/oauth/%74oken"]
)
async def test_token_proof_for_the_same_uri_is_accepted(authority: Authority, uri: str) -> None:
    workload = authority.workload(1002)
    answer = await authority.post(workload.form(), {"dpop": workload.proof(uri)})
    assert answer.status_code == 200, answer.text


@pytest.mark.requirement("attack-15")
async def test_token_without_a_proof_is_refused_to_agents_and_gateways(
    authority: Authority,
) -> None:
    assert error_of(await authority.post(authority.workload(1002).form())) == "invalid_dpop_proof"
    gateway = await authority.enrolled()
    assert error_of(await authority.post(gateway.control_form())) == "invalid_dpop_proof"
    assert {event.reasons for event in authority.refusals()} == {("dpop.missing",)}


@pytest.mark.requirement("trap-empty-dpop-header")
@pytest.mark.parametrize("value", ["", " ", "\t"])
async def test_token_empty_proof_is_an_error_not_a_bearer(authority: Authority, value: str) -> None:
    gateway = await authority.enrolled()
    answer = await authority.post(gateway.control_form(), {"dpop": value})
    assert error_of(answer) == "invalid_dpop_proof"
    answer = await authority.post(
        gateway.exchange_form(authority.sign_token(authority.blended())), {"dpop": value}
    )
    assert error_of(answer) == "invalid_dpop_proof"


@pytest.mark.requirement("attack-15")
async def test_token_two_proofs_are_refused(authority: Authority) -> None:
    workload = authority.workload(1002)
    headers = [
        ("content-type", "application/x-www-form-urlencoded"),
        ("dpop", workload.proof()),
        ("dpop", workload.proof()),
    ]
    async with authority.http() as http:
        answer = await http.post("/oauth/token", data=workload.form(), headers=headers)
    assert error_of(answer) == "invalid_dpop_proof"


@pytest.mark.requirement("attack-15")
async def test_token_replayed_proof_is_refused(authority: Authority) -> None:
    workload = authority.workload(1002)
    proof = workload.proof()
    assert (await authority.post(workload.form(), {"dpop": proof})).status_code == 200
    assert error_of(await authority.post(workload.form(), {"dpop": proof})) == "invalid_dpop_proof"


@pytest.mark.requirement("attack-15")
async def test_token_proof_replayed_twenty_times_at_once_over_two_processes_is_one_success(
    authority: Authority,
) -> None:
    workload = authority.workload(1002)
    second = await authority.another_process()
    proof = workload.proof()
    answers = await asyncio.gather(
        *((authority, second)[n % 2].post(workload.form(), {"dpop": proof}) for n in range(20))
    )
    second.database.close()
    assert sorted(answer.status_code for answer in answers) == [200] + [400] * 19


@pytest.mark.requirement("attack-15")
async def test_token_exchange_with_a_proof_is_no_silent_downgrade(authority: Authority) -> None:
    gateway = await authority.enrolled()
    form = gateway.exchange_form(authority.sign_token(authority.blended()))
    answer = await authority.post(form, {"dpop": gateway.proof()})
    assert error_of(answer) == "invalid_request"
    assert authority.refusals()[0].reasons == ("dpop.unwanted",)
