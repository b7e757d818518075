"""Where /authorize may send a browser: the registered redirect URI, and nowhere else."""

from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from audit_log.event import EventType
from authz_server.redirect_uris import matches, origin_of
from registry.snapshot import RegistrySnapshot
from tests.authz_server.front_half import (
    FrontHalf,
    answer_of,
    client,
    is_login,
    sample_snapshot,
)

WEB = "https://app.example.com/cb?tenant=1"
NATIVE = "http://127.0.0.1/callback"

FOREIGN_TO_WEB = [
    "https://app.example.com/cb",  # without the registered query
    "https://app.example.com/cb?tenant=1&more=1",  # prefix
    "https://app.example.com/cb?tenant=12",
    "https://app.example.com/cb?tenant=1/../evil",
    "https://app.example.com/c%62?tenant=1",  # encoded
    "https://app.example.com/cb%3Ftenant=1",
    "https://app.example.com%2Fcb?tenant=1",
    "https://app.example.com:443/cb?tenant=1",  # port
    "https://app.example.com:8443/cb?tenant=1",
    "https://APP.example.com/cb?tenant=1",  # case
    "HTTPS://app.example.com/cb?tenant=1",
    "https://app.example.com/CB?tenant=1",
    "https://app.example.com/cb?tenant=1#",  # fragment
    "https://app.example.com/cb?tenant=1#state=x",
    "https://app.example.com./cb?tenant=1",  # trailing dot
    "https://user@app.example.com/cb?tenant=1",  # userinfo
    "https://app.example.com@evil.example/cb?tenant=1",
    "https://app.example.com:x@evil.example/cb?tenant=1",
    "https://evil.example/?https://app.example.com/cb?tenant=1",
    "https://app.example.com.evil.example/cb?tenant=1",
    "https://app.example.com\\@evil.example/cb?tenant=1",
    'https://app.example.com/cb?tenant=1"',  # quotes
    "https://app.example.com/cb?tenant=1'",
    "https://app.example.com/cb?tenant=1 ",
    "https://äpp.example.com/cb?tenant=1",  # non-ASCII
    "https://app.example.com/cb?tenant=１",  # noqa: RUF001 - a full-width digit
    "//app.example.com/cb?tenant=1",
    "/cb?tenant=1",
    "javascript:alert(1)",
    "data:text/html,x",
    "http://app.example.com/cb",  # registered, but http to another host never counts
]

FOREIGN_TO_NATIVE = [
    "http://127.0.0.1/callback/",
    "http://127.0.0.1/callback?x=1",
    "http://127.0.0.1/Callback",
    "http://127.0.0.1/callbac%6b",
    "http://127.0.0.1/callback#x",
    "http://127.0.0.1:0/callback",
    "http://127.0.0.1:080/callback",
    "http://127.0.0.1:65536/callback",
    "http://127.0.0.1:99999/callback",
    "http://127.0.0.1:-1/callback",
    "http://127.0.0.1:/callback",
    "http://127.0.0.1:１２/callback",  # noqa: RUF001 - full-width digits
    "http://127.0.0.1:80:80/callback",
    "https://127.0.0.1:5000/callback",
    "http://127.0.0.2:5000/callback",
    "http://127.0.0.1.evil.example:5000/callback",
    "http://127.0.0.1@evil.example/callback",
    "http://evil@127.0.0.1:5000/callback",
    "http://127.1:5000/callback",
    "http://2130706433:5000/callback",
    "http://0x7f.0.0.1:5000/callback",
    "http://[::1]:5000/callback",
    "http://[::ffff:127.0.0.1]:5000/callback",
    "http://localhost:5000/callback",
    "http://127.0.0.1.:5000/callback",
]


def with_redirect_uris(kind: str, *redirect_uris: str, **changes: Any) -> RegistrySnapshot:
    """The sample with support-bot's client of another kind or with other redirect URIs."""
    snapshot = sample_snapshot("https://as.example.com")
    record = client("support-bot", kind, agent="support-bot", redirect_uris=redirect_uris)
    record = msgspec.structs.replace(record, **changes)
    return msgspec.structs.replace(snapshot, clients=snapshot.clients | {"support-bot": record})


def is_accepted(half: FrontHalf, **changes: Any) -> bool:
    return is_login(half.browser().authorize(**changes))


@pytest.mark.requirement("attack-7")
def test_redirect_uri_with_what_a_terminal_would_obey_is_a_page_and_never_read(
    half: FrontHalf,
) -> None:
    redirect_uri = "https://app.example.com/cb?tenant=1\u202e"
    answer = half.browser().authorize(client_id="web-bot", redirect_uri=redirect_uri)
    assert (answer.status_code, answer.headers.get("location")) == (400, None)


@pytest.mark.requirement("attack-7")
@pytest.mark.parametrize("redirect_uri", FOREIGN_TO_WEB)
def test_redirect_uri_almost_that_of_a_web_client_is_a_page_and_no_redirect(
    half: FrontHalf, redirect_uri: str
) -> None:
    answer = half.browser().authorize(client_id="web-bot", redirect_uri=redirect_uri)
    assert answer.status_code == 400
    assert "location" not in answer.headers
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "not registered for this program" in answer.text
    assert redirect_uri not in answer.text  # a page that shows it is a lure of its own
    (event,) = half.spool.of(EventType.AUTHORIZE_REFUSED)
    assert (event.reasons, event.client_id) == (("authorize.redirect_uri",), "web-bot")
    assert half.spool.events == [event]


@pytest.mark.requirement("attack-7")
def test_redirect_uri_registered_with_a_query_is_accepted_with_exactly_it(half: FrontHalf) -> None:
    assert is_accepted(half, client_id="web-bot", redirect_uri=WEB)
    assert half.spool.of(EventType.AUTHORIZE_REFUSED) == []


@pytest.mark.requirement("attack-7")
@pytest.mark.parametrize("redirect_uri", FOREIGN_TO_NATIVE)
def test_redirect_uri_almost_loopback_of_a_native_client_is_a_page(
    half: FrontHalf, redirect_uri: str
) -> None:
    answer = half.browser().authorize(redirect_uri=redirect_uri)
    assert (answer.status_code, answer.headers.get("location")) == (400, None)
    assert half.spool.events[-1].reasons == ("authorize.redirect_uri",)


@pytest.mark.requirement("attack-7")
@pytest.mark.parametrize("port", ["", ":1", ":80", ":5000", ":65535"])
def test_redirect_uri_of_a_native_client_may_have_any_port(half: FrontHalf, port: str) -> None:
    assert is_accepted(half, redirect_uri=f"http://127.0.0.1{port}/callback")


@pytest.mark.requirement("attack-7")
@pytest.mark.parametrize(
    ("kind", "registered", "asked", "expected"),
    [
        ("agent", "http://[::1]:1/cb", "http://[::1]:5000/cb", True),
        ("agent", "http://[::1]/cb", "http://127.0.0.1:5000/cb", False),
        ("cli", NATIVE, "http://127.0.0.1:5000/callback", True),
        # A name can be resolved elsewhere: byte for byte only (RFC 8252 §8.3).
        ("agent", "http://localhost:5000/cb", "http://localhost:5000/cb", True),
        ("agent", "http://localhost:5000/cb", "http://localhost:5001/cb", False),
        ("agent", "http://localhost:5000/cb", "http://127.0.0.1:5000/cb", False),
        # A declared client may be a web site: another local program must not take its place.
        ("declared", "http://127.0.0.1:8080/cb", "http://127.0.0.1:8080/cb", True),
        ("declared", "http://127.0.0.1:8080/cb", "http://127.0.0.1:8081/cb", False),
        ("agent", "https://127.0.0.1:5000/cb", "https://127.0.0.1:5001/cb", False),
        ("agent", "https://app.example.com:1/cb", "https://app.example.com:2/cb", False),
        # Never registered by the registry; refused here whatever a snapshot says.
        ("agent", "javascript:alert(1)", "javascript:alert(1)", False),
        ("agent", "http://app.example.com/cb", "http://app.example.com/cb", False),
        ("agent", "http://127.0.0.1:x/cb", "http://127.0.0.1:x/cb", False),
    ],
)
def test_redirect_uri_port_rule_is_for_loopback_literals_of_native_clients(
    kind: str, registered: str, asked: str, expected: bool
) -> None:
    record = with_redirect_uris(kind, registered).clients["support-bot"]
    assert matches(record, asked) is expected


@pytest.mark.requirement("attack-7")
@pytest.mark.parametrize("redirect_uri", [None, "", NATIVE, WEB])
def test_redirect_uri_is_never_filled_in_or_taken_from_another_client(
    half: FrontHalf, redirect_uri: str | None
) -> None:
    half.live.snapshot = with_redirect_uris("agent", "https://only.example.com/cb")
    assert half.browser().authorize(redirect_uri=redirect_uri).status_code == 400
    assert is_accepted(half, redirect_uri="https://only.example.com/cb")


@pytest.mark.requirement("attack-7")
@pytest.mark.requirement("attack-19")
@pytest.mark.parametrize("name", ["redirect_uri", "client_id"])
def test_redirect_uri_or_client_named_twice_is_a_page(half: FrontHalf, name: str) -> None:
    one = {"redirect_uri": NATIVE, "client_id": "support-bot"}[name]
    other = {"redirect_uri": "https://evil.example/", "client_id": "web-bot"}[name]
    for values in ([one, one], [one, other], [other, one]):
        answer = half.browser().authorize(**{name: values})
        assert (answer.status_code, answer.headers.get("location")) == (400, None)
    assert is_accepted(half, **{name: [one]})


@pytest.mark.requirement("attack-8")
@pytest.mark.parametrize("client_id", [None, "", "nobody", "Support-Bot", "support-bot ", "ä", "'"])
def test_redirect_uri_of_an_unknown_client_is_never_followed(
    half: FrontHalf, client_id: str | None
) -> None:
    answer = half.browser().authorize(client_id=client_id)
    assert (answer.status_code, answer.headers.get("location")) == (400, None)
    (event,) = half.spool.of(EventType.AUTHORIZE_REFUSED)
    # What was claimed is in the detail, escaped; the field holds only clients that exist.
    assert (event.reasons, event.client_id) == (("authorize.client",), None)
    assert event.detail is not None
    assert event.detail.isascii()


@pytest.mark.requirement("attack-8")
@pytest.mark.requirement("attack-11")
def test_redirect_uri_gets_errors_with_state_and_issuer_and_keeps_its_query(
    half: FrontHalf,
) -> None:
    answer = half.browser().authorize(
        client_id="web-bot", redirect_uri=WEB, response_type="token", state="a&b=ü #"
    )
    said = answer_of(answer)
    assert answer.headers["location"].startswith(f"{WEB}&")
    assert said["tenant"] == "1"
    assert (said["error"], said["state"], said["iss"]) == (
        "unsupported_response_type",
        "a&b=ü #",
        half.issuer,
    )
    assert urlsplit(answer.headers["location"]).fragment == ""


@pytest.mark.requirement("attack-11")
def test_redirect_uri_gets_a_code_with_state_and_issuer(half: FrontHalf) -> None:
    browser = half.browser()
    answer = browser.allow(browser.log_in(browser.authorize(state="s-1")))
    said = answer_of(answer)
    assert set(said) == {"code", "state", "iss"}
    assert (said["state"], said["iss"]) == ("s-1", half.issuer)
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "no-referrer"


def test_redirect_uri_gets_no_state_when_none_was_sent(half: FrontHalf) -> None:
    assert set(answer_of(half.browser().authorize(state=None, response_type=None))) == {
        "error",
        "error_description",
        "iss",
    }


@pytest.mark.requirement("attack-13")
@pytest.mark.parametrize(
    ("redirect_uri", "origin"),
    [
        ("https://app.example.com/cb", "https://app.example.com"),
        ("https://app.example.com:8443?x", "https://app.example.com:8443"),
        ("http://127.0.0.1:5000/callback", "http://127.0.0.1:5000"),
        ("http://[::1]:5000/callback", "http://[::1]:5000"),
        ("https://user@app.example.com/cb", None),
        ("https://app.example.com;script-src/cb", None),
        ("https://äpp.example.com/cb", None),
    ],
)
def test_redirect_uri_origin_goes_into_a_header_only_when_plain(
    redirect_uri: str, origin: str | None
) -> None:
    assert origin_of(redirect_uri) == origin
