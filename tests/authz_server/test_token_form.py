"""What arrives at the token endpoint before anybody is asked: its form, size and shape."""

from typing import Any

import pytest

from tests.authz_server.back_half import TOKEN_URI, Authority, error_of

pytestmark = pytest.mark.anyio


@pytest.mark.requirement("attack-19")
@pytest.mark.parametrize(
    "name", ["grant_type", "client_assertion", "client_assertion_type", "scope", "client_id"]
)
async def test_token_parameter_sent_twice_is_refused(authority: Authority, name: str) -> None:
    workload = authority.workload(1002)
    form = workload.form(client_id="batch-bot", scope="mcp:tools")
    answer = await authority.post({**form, name: [form[name], form[name]]})
    assert error_of(answer) == "invalid_request"
    assert authority.refusals()[0].reasons == ("token.repeated",)


@pytest.mark.requirement("attack-19")
@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "multipart/form-data; boundary=x",
        "text/plain",
        "",
        "application/x-www-form-urlencoded; charset=utf-16",
        "application/x-www-form-urlencoded2",
    ],
)
async def test_token_other_content_type_is_refused(authority: Authority, content_type: str) -> None:
    workload = authority.workload(1002)
    answer = await authority.post(workload.form(), {"content-type": content_type})
    assert error_of(answer) == "invalid_request"


@pytest.mark.parametrize(
    "content_type",
    [
        "application/x-www-form-urlencoded",
        "application/x-www-form-urlencoded; charset=UTF-8",
        "Application/X-WWW-Form-Urlencoded",
    ],
)
async def test_token_form_content_type_is_accepted(authority: Authority, content_type: str) -> None:
    workload = authority.workload(1002)
    headers = {"content-type": content_type, "dpop": workload.proof()}
    assert (await authority.post(workload.form(), headers)).status_code == 200


@pytest.mark.requirement("attack-19")
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"grant_type=client_credentials&x=\x00",
        b"grant_type=client_credentials&x=%00",
        b"grant_type=client_credentials&x=%0d%0a",
        b"grant_type=client_credentials&x=%ff%fe",
        b"grant_type=client_credentials&x=\xff",
        b"&".join(b"p%d=1" % n for n in range(10_000)),
        b"grant_type=" + b"a" * 60_000,
        b"grant_type",
        b"grant_type=",
        b'{"grant_type":"client_credentials"}',
    ],
)
async def test_token_malformed_body_is_refused(authority: Authority, body: bytes) -> None:
    assert error_of(await authority.post(body)) == "invalid_request"


@pytest.mark.requirement("attack-19")
async def test_token_parameters_in_the_query_are_refused(authority: Authority) -> None:
    workload = authority.workload(1002)
    async with authority.http() as http:
        answer = await http.post(
            "/oauth/token?resource=x", data=workload.form(), headers={"dpop": workload.proof()}
        )
    assert error_of(answer) == "invalid_request"


@pytest.mark.parametrize("grant_type", ["password", "implicit", "device_code", "urn:x", "\u00e9"])
async def test_token_other_grant_is_unsupported(authority: Authority, grant_type: str) -> None:
    answer = await authority.workload().ask(grant_type=grant_type)
    assert error_of(answer) == "unsupported_grant_type"


@pytest.mark.requirement("attack-19")
async def test_token_too_many_resources_are_refused(authority: Authority) -> None:
    answer = await authority.workload(1002).ask(resource=["https://x.example"] * 9)
    assert error_of(answer) == "invalid_target"


@pytest.mark.requirement("trap-accept-html")
@pytest.mark.parametrize("accept", ["text/html", "*/*;q=0", "application/xml"])
async def test_token_error_is_json_whatever_is_accepted(authority: Authority, accept: str) -> None:
    answer = await authority.post({"grant_type": "password"}, {"accept": accept})
    assert error_of(answer) == "unsupported_grant_type"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD", "OPTIONS"])
async def test_token_other_method_is_405(authority: Authority, method: str) -> None:
    async with authority.http() as http:
        answer = await http.request(method, "/oauth/token")
    assert answer.status_code == 405
    assert "POST" in answer.headers["allow"]


@pytest.mark.requirement("attack-25")
async def test_token_host_header_changes_nothing(authority: Authority) -> None:
    workload = authority.workload(1002)
    forged = {
        "host": "evil.example",
        "x-forwarded-host": "evil.example",
        "x-forwarded-proto": "https",
        "forwarded": "host=evil.example",
    }
    answer = await authority.post(workload.form(), {**forged, "dpop": workload.proof()})
    assert answer.status_code == 200, answer.text
    evil = workload.proof("http://evil.example/oauth/token")
    answer = await authority.post(workload.form(), {**forged, "dpop": evil})
    assert error_of(answer) == "invalid_dpop_proof"
    assert TOKEN_URI.startswith("http://127.0.0.1")


async def test_token_answer_names_no_cache(authority: Authority) -> None:
    answer = await authority.workload(1002).ask()
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["pragma"] == "no-cache"
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("extra", [{"unknown": "x"}, {"nonce": "x"}, {"code": "x"}])
async def test_token_parameters_of_others_are_ignored(
    authority: Authority, extra: dict[str, Any]
) -> None:
    assert (await authority.workload(1002).ask(**extra)).status_code == 200
