"""Whatever bytes arrive at the pages: a 4xx page or a redirect, never a fault, never a code."""

from collections.abc import Iterator
from urllib.parse import urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit_log.event import EventType
from tests.authz_server.front_half import (
    HTTPS_ISSUER,
    REDIRECT_URI,
    FrontHalf,
    hidden_fields,
    request_parameters,
)
from tests.authz_server.partner import partner_of
from tests.authz_server.raw_asgi import RawAnswer, ask
from tests.databases import new_database

PATHS = (
    "/oauth/authorize",
    "/oauth/login",
    "/oauth/login/partner",
    "/oauth/callback/partner",
    "/oauth/consent",
)
FORM = b"application/x-www-form-urlencoded"

a_name = st.sampled_from(
    [
        *request_parameters(),
        *("nonce", "prompt", "max_age", "dpop_jkt", "authorization_details", "request"),
        *("request_uri", "response_mode", "interaction", "csrf", "answer", "username"),
        *("code", "state", "iss", "error", "error_description"),
    ]
)
a_text = st.text(max_size=40)
a_query = st.one_of(
    st.binary(max_size=200),
    st.lists(st.tuples(a_name | a_text, a_text), max_size=8).map(
        lambda pairs: urlencode([(n, v) for n, v in pairs], errors="replace").encode()
    ),
)
each = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FrontHalf]:
    database = new_database(tmp_path_factory.mktemp("any_bytes"))
    half = FrontHalf(database, HTTPS_ISSUER)
    partner_of(half)
    yield half
    database.close()


def is_harmless(site: FrontHalf, answer: RawAnswer) -> bool:
    """A page that refuses, or a redirect to ourselves or to the proved address."""
    assert site.cuts(EventType.CODE_ISSUED) == []
    location = answer.headers.get("location")
    if location is None:
        return 400 <= answer.status < 500
    ours = location.startswith((f"{HTTPS_ISSUER}/oauth/", f"{REDIRECT_URI}?error="))
    return answer.status == 303 and ours and "\n" not in location


@pytest.mark.requirement("attack-19")
@pytest.mark.parametrize("path", PATHS)
@given(query=a_query)
@each
def test_any_bytes_in_the_query_are_answered(site: FrontHalf, path: str, query: bytes) -> None:
    assert is_harmless(site, ask(site.app, "GET", path, query=query))


@pytest.mark.requirement("attack-19")
@pytest.mark.parametrize("path", PATHS)
@given(
    body=a_query,
    content_type=st.one_of(st.just(FORM), st.binary(max_size=60)),
    cookie=st.binary(max_size=80),
)
@each
def test_any_bytes_in_a_form_are_answered(
    site: FrontHalf, path: str, body: bytes, content_type: bytes, cookie: bytes
) -> None:
    headers = {b"content-type": content_type, b"cookie": cookie, b"origin": cookie}
    assert is_harmless(site, ask(site.app, "POST", path, body=body, headers=headers))


@pytest.mark.requirement("attack-19")
@pytest.mark.requirement("attack-8")
@given(name=a_name, value=a_text)
@each
def test_any_value_of_one_parameter_is_answered(site: FrontHalf, name: str, value: str) -> None:
    parameters = request_parameters() | {name: value}
    query = urlencode(parameters, errors="replace").encode()
    assert is_harmless(site, ask(site.app, "GET", "/oauth/authorize", query=query))


@pytest.mark.requirement("attack-12")
@pytest.mark.requirement("attack-19")
@given(
    form=st.dictionaries(
        st.sampled_from(["csrf", "answer", "username", "password", "identity_provider"]), a_text
    )
)
@each
def test_any_answer_in_an_open_login_is_answered(site: FrontHalf, form: dict[str, str]) -> None:
    browser = site.browser()
    page = browser.authorize()
    cookie = "; ".join(f"{item.name}={item.value}" for item in browser.http.cookies.jar)
    body = urlencode(hidden_fields(page) | form, errors="replace").encode()
    headers = {b"content-type": FORM, b"cookie": cookie.encode()}
    answer = ask(site.app, "POST", "/oauth/login", body=body, headers=headers)
    assert answer.status in {400, 403}


def test_any_bytes_are_told_from_a_right_request(site: FrontHalf) -> None:
    query = urlencode(request_parameters()).encode()
    answer = ask(site.app, "GET", "/oauth/authorize", query=query)
    assert answer.headers["location"].startswith(f"{HTTPS_ISSUER}/oauth/login?")
