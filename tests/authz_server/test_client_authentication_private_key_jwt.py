"""private_key_jwt: a gateway proves its enrolled key, for our issuer only, once."""

import asyncio
from typing import Any

import pytest

from tests.authz_server.back_half import (
    CONTROL,
    ISSUER,
    NOW,
    TOKEN_URI,
    Authority,
    GatewayProcess,
    error_of,
)

pytestmark = pytest.mark.anyio


async def test_client_authentication_enrolled_key_is_its_gateway(authority: Authority) -> None:
    gateway = await authority.enrolled()
    assert (await gateway.ask_control()).status_code == 200


@pytest.mark.requirement("attack-5")
@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"aud": TOKEN_URI}, "jwt.audience"),
        ({"aud": [ISSUER, TOKEN_URI]}, "jwt.audience"),
        ({"aud": CONTROL}, "jwt.audience"),
        ({"aud": None}, "jwt.audience"),
        ({"sub": "gateway:other"}, "client.subject"),
        ({"sub": None}, "jwt.missing"),
        ({"iss": "gateway:other"}, "jwt.key"),
        ({"iss": "gateway:unknown"}, "client.unknown"),
        ({"iss": None}, "jwt.missing"),
        ({"exp": NOW + 61}, "jwt.lifetime"),
        ({"exp": NOW - 6, "iat": NOW - 60}, "jwt.expired"),
        ({"exp": None}, "jwt.missing"),
        ({"exp": NOW + 59.5}, "jwt.claim"),
        ({"exp": True}, "jwt.claim"),
        ({"iat": None}, "jwt.missing"),
        ({"nbf": NOW + 20}, "jwt.future"),
        ({"jti": None}, "jwt.missing"),
        ({"jti": ""}, "jwt.claim"),
        ({"jti": "x" * 300}, "client.jti"),
    ],
)
async def test_client_authentication_wrong_assertion_is_refused(
    authority: Authority, changes: dict[str, Any], rule: str
) -> None:
    gateway = await authority.enrolled()
    answer = await gateway.ask_control(client_assertion=gateway.assertion(**changes))
    assert error_of(answer) == "invalid_client"
    assert authority.refusals()[-1].reasons == (rule,)


@pytest.mark.requirement("attack-6")
@pytest.mark.parametrize("typ", ["JWT", "dpop+jwt", "at+jwt", None])
async def test_client_authentication_assertion_of_another_typ_is_refused(
    authority: Authority, typ: str | None
) -> None:
    gateway = await authority.enrolled()
    assertion = gateway.assertion(header={"typ": typ})
    assert error_of(await gateway.ask_control(client_assertion=assertion)) == "invalid_client"
    assert authority.refusals()[-1].reasons == ("jwt.type",)


@pytest.mark.requirement("attack-5")
async def test_client_authentication_assertion_is_good_once_over_two_processes(
    authority: Authority,
) -> None:
    gateway = await authority.enrolled()
    second = await authority.another_process()
    form = gateway.control_form()
    answers = await asyncio.gather(
        *((authority, second)[n % 2].post(form, {"dpop": gateway.proof()}) for n in range(20))
    )
    second.database.close()
    assert sorted(answer.status_code for answer in answers) == [200] + [401] * 19


async def test_client_authentication_same_jti_of_two_gateways_is_no_replay(
    authority: Authority,
) -> None:
    for name in ("demo", "other"):
        gateway = await authority.enrolled(name)
        answer = await gateway.ask_control(client_assertion=gateway.assertion(jti="the-same-id"))
        assert answer.status_code == 200, answer.text


async def test_client_authentication_key_that_is_not_enrolled_is_refused(
    authority: Authority,
) -> None:
    await authority.enrolled()
    stranger = GatewayProcess(authority, "gateway:demo")
    assert error_of(await stranger.ask_control()) == "invalid_client"
    assert authority.refusals()[-1].reasons == ("jwt.key",)


async def test_client_authentication_key_that_was_removed_is_refused(authority: Authority) -> None:
    gateway = await authority.enrolled()
    await authority.remove_key(gateway)
    assert error_of(await gateway.ask_control()) == "invalid_client"


async def test_client_authentication_gateway_proof_by_another_key_is_refused(
    authority: Authority,
) -> None:
    gateway = await authority.enrolled()
    stranger = GatewayProcess(authority, "gateway:demo")
    answer = await authority.post(gateway.control_form(), {"dpop": stranger.proof()})
    assert error_of(answer) == "invalid_client"
    assert authority.refusals()[-1].reasons == ("client.key",)


@pytest.mark.requirement("attack-24")
async def test_client_authentication_unknown_and_wrong_look_the_same(authority: Authority) -> None:
    gateway = await authority.enrolled()
    unknown = await gateway.ask_control(client_assertion=gateway.assertion(iss="nobody"))
    wrong = await gateway.ask_control(client_assertion=gateway.assertion(sub="gateway:other"))
    forged = await gateway.ask_control(client_assertion=gateway.assertion(header={"kid": "x"}))
    assert unknown.json() == wrong.json() == forged.json()
    assert unknown.status_code == wrong.status_code == forged.status_code


@pytest.mark.requirement("attack-18")
@pytest.mark.parametrize(
    "changes",
    [
        {"client_secret": "hunter2hunter2"},
        {"authorization": "Basic Z2F0ZXdheTpkZW1v"},
        {"authorization": "Bearer abc"},
    ],
)
async def test_client_authentication_several_at_once_are_refused(
    authority: Authority, changes: dict[str, str]
) -> None:
    gateway = await authority.enrolled()
    headers = {"dpop": gateway.proof()}
    form = gateway.control_form()
    if "authorization" in changes:
        headers |= changes
    else:
        form |= changes
    assert error_of(await authority.post(form, headers)) == "invalid_request"
    assert authority.refusals()[-1].reasons == ("client.several",)


@pytest.mark.requirement("attack-18")
async def test_client_authentication_by_a_shared_secret_is_refused_with_a_challenge(
    authority: Authority,
) -> None:
    form = {"grant_type": "client_credentials", "resource": CONTROL}
    answer = await authority.post(form, {"authorization": "Basic Z2F0ZXdheTpkZW1v"})
    assert error_of(answer) == "invalid_client"
    assert answer.headers["www-authenticate"].startswith("Basic")
    form |= {"client_id": "gateway:demo", "client_secret": "demo"}
    answer = await authority.post(form)
    assert error_of(answer) == "invalid_client"
    assert "www-authenticate" not in answer.headers


@pytest.mark.requirement("attack-18")
@pytest.mark.parametrize("client_id", ["gateway:demo", "support-bot", "night-watch"])
async def test_client_authentication_downgrade_to_none_is_refused(
    authority: Authority, client_id: str
) -> None:
    form = {"grant_type": "client_credentials", "resource": CONTROL, "client_id": client_id}
    assert error_of(await authority.post(form)) == "invalid_client"
    assert authority.refusals()[-1].reasons == ("client.method",)


@pytest.mark.parametrize(
    "changes",
    [
        {"client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:saml2-bearer"},
        {"client_assertion_type": None},
        {"client_assertion": None},
        {"client_assertion": "not.a.jwt"},
        {"client_assertion": "a" * 20_000},
    ],
)
async def test_client_authentication_half_an_assertion_is_refused(
    authority: Authority, changes: dict[str, Any]
) -> None:
    gateway = await authority.enrolled()
    assert error_of(await gateway.ask_control(**changes)) == "invalid_client"
