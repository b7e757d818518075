"""Enrolment: a single-use code and a proof by the key that is to be enrolled."""

import asyncio

import httpx2
import pytest

from audit_log.event import EventType
from authz_server.endpoints import control_enrolment
from authz_server.issuing.signing_keys import KeyPurpose
from database.errors import DatabaseUnavailableError
from tests.authz_server.back_half import CONTROL, ISSUER, Authority, GatewayProcess, error_of

pytestmark = pytest.mark.anyio

ENROL = f"{CONTROL}/enrol"


async def new_code(authority: Authority, gateway: str = "demo") -> str:
    return await authority.parts.enrolment.create_code(gateway, "test", authority.now)


async def enrol(
    process: GatewayProcess,
    body: object,
    headers: dict[str, str] | None = None,
) -> httpx2.Response:
    sent = {"dpop": process.proof(ENROL)} if headers is None else headers
    async with process.authority.http() as http:
        return await http.post("/control/v1/enrol", json=body, headers=sent)


@pytest.fixture
def process(authority: Authority) -> GatewayProcess:
    return GatewayProcess(authority, "gateway:demo")


async def test_control_enrolment_gives_the_client_and_the_control_key(
    authority: Authority, process: GatewayProcess
) -> None:
    answer = await enrol(process, {"code": await new_code(authority), "jwk": process.jwk})
    assert answer.status_code == 200, answer.text
    assert answer.json() == {
        "client_id": "gateway:demo",
        "gateway": "demo",
        "issuer": ISSUER,
        "control_key": authority.parts.keys.active_public_jwk(KeyPurpose.CONTROL),
    }
    assert (await process.ask_control()).status_code == 200  # at once
    (event,) = authority.cuts(EventType.GATEWAY_ENROLLED)
    assert event.object_ref == "Gateway/demo"


@pytest.mark.requirement("control-enrolment")
async def test_control_enrolment_code_is_good_once(
    authority: Authority, process: GatewayProcess
) -> None:
    code = await new_code(authority)
    others = [GatewayProcess(authority, "gateway:demo") for _ in range(20)]
    answers = await asyncio.gather(
        *(enrol(other, {"code": code, "jwk": other.jwk}) for other in others)
    )
    assert sorted(answer.status_code for answer in answers) == [200] + [403] * 19
    assert error_of(await enrol(process, {"code": code, "jwk": process.jwk})) == "access_denied"
    assert authority.refusals()[-1].reasons == ("enrol.code",)


@pytest.mark.requirement("attack-30")
async def test_control_enrolment_without_a_code_leaves_nothing_behind(
    authority: Authority, process: GatewayProcess
) -> None:
    proof = {"dpop": process.proof(ENROL)}
    stranger = await enrol(process, {"code": "guessed", "jwk": process.jwk}, proof)
    assert error_of(stranger) == "access_denied"
    assert authority.refusals()[-1].reasons == ("enrol.code",)
    # The proof was not used up: nothing was written for somebody without a code.
    code = await new_code(authority)
    assert (await enrol(process, {"code": code, "jwk": process.jwk}, proof)).status_code == 200


async def test_control_enrolment_code_expires(
    authority: Authority, process: GatewayProcess
) -> None:
    code = await new_code(authority)
    authority.clock.now += 601
    assert error_of(await enrol(process, {"code": code, "jwk": process.jwk})) == "access_denied"


@pytest.mark.requirement("attack-15")
async def test_control_enrolment_without_the_keys_proof_leaves_the_code_unused(
    authority: Authority, process: GatewayProcess
) -> None:
    code = await new_code(authority)
    body = {"code": code, "jwk": process.jwk}
    thief = GatewayProcess(authority, "gateway:demo")
    for headers in (
        {},
        {"dpop": ""},
        {"dpop": thief.proof(ENROL)},
        {"dpop": process.proof(f"{CONTROL}/acks")},
        {"dpop": process.proof(ENROL, "GET")},
    ):
        answer = await enrol(process, body, headers)
        assert answer.status_code == 401
        assert error_of(answer) == "invalid_dpop_proof"
        assert answer.headers["www-authenticate"].startswith("DPoP ")
    assert (await enrol(process, body)).status_code == 200


async def test_control_enrolment_replayed_proof_is_refused(
    authority: Authority, process: GatewayProcess
) -> None:
    headers = {"dpop": process.proof(ENROL)}
    first = {"code": await new_code(authority), "jwk": process.jwk}
    assert (await enrol(process, first, headers)).status_code == 200
    second = {"code": await new_code(authority), "jwk": process.jwk}
    assert error_of(await enrol(process, second, headers)) == "invalid_dpop_proof"
    assert (await enrol(process, second)).status_code == 200


async def test_control_enrolment_of_an_unusable_key_is_refused(
    authority: Authority, process: GatewayProcess
) -> None:
    code = await new_code(authority)
    private = process.key.as_dict(private=True)
    for jwk in (private, {**process.jwk, "crv": "P-384"}, {"kty": "oct", "k": "AAAA"}, {}):
        answer = await enrol(process, {"code": code, "jwk": jwk})
        assert error_of(answer) == "invalid_request"
    assert (await enrol(process, {"code": code, "jwk": process.jwk})).status_code == 200


@pytest.mark.parametrize(
    "body",
    [{}, [], {"code": 1, "jwk": {}}, {"code": "x"}, {"code": "x", "jwk": {}, "more": 1}, "x"],
)
async def test_control_enrolment_malformed_body_is_refused(
    process: GatewayProcess, body: object
) -> None:
    assert error_of(await enrol(process, body)) == "invalid_request"


async def test_control_enrolment_oversized_body_is_refused(
    authority: Authority, process: GatewayProcess
) -> None:
    body = {"code": "x" * 10_000, "jwk": process.jwk}
    assert error_of(await enrol(process, body)) == "invalid_request"
    assert len(authority.spool.events) == 1


@pytest.mark.requirement("control-intent-first")
async def test_control_enrolment_that_cannot_be_recorded_enrols_nobody(
    authority: Authority, process: GatewayProcess
) -> None:
    body = {"code": await new_code(authority), "jwk": process.jwk}
    authority.spool.is_broken = True
    assert (await enrol(process, body)).status_code == 503
    assert authority.parts.enrolment.enrolled() == ()
    authority.spool.is_broken = False
    assert (await enrol(process, body)).status_code == 200
    (intent,), (enrolled,) = (
        authority.spool.of(EventType.GATEWAY_ALLOWED),
        authority.cuts(EventType.GATEWAY_ENROLLED),
    )
    assert (intent.object_ref, intent.detail) == (enrolled.object_ref, enrolled.detail)


@pytest.mark.requirement("trap-act-unrecorded")
async def test_control_enrolment_and_its_record_are_one_write_and_the_code_stays_good(
    authority: Authority, process: GatewayProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"code": await new_code(authority), "jwk": process.jwk}

    def broken(*_: object, **__: object) -> None:
        raise DatabaseUnavailableError("full")

    with monkeypatch.context() as patched:
        patched.setattr(control_enrolment, "append_in", broken)
        assert (await enrol(process, body)).status_code == 503
    assert authority.parts.enrolment.enrolled() == ()
    assert (await enrol(process, body)).status_code == 200
    assert len(authority.cuts(EventType.GATEWAY_ENROLLED)) == 1
    assert error_of(await enrol(process, body)) == "access_denied"  # used now
    assert len(authority.cuts(EventType.GATEWAY_ENROLLED)) == 1


async def test_control_enrolment_with_a_wrong_code_is_never_recorded_as_allowed(
    authority: Authority, process: GatewayProcess
) -> None:
    await new_code(authority)
    assert error_of(await enrol(process, {"code": "x", "jwk": process.jwk})) == "access_denied"
    assert authority.spool.of(EventType.GATEWAY_ALLOWED) == []
