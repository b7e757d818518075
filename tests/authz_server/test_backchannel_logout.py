"""The back channel: an identity provider's logout token ends what it names, or is refused."""

from dataclasses import replace
from typing import Any

import pytest
from httpx2 import Response
from starlette.testclient import TestClient

from audit_log.event import EventType
from database.errors import DatabaseBusyError
from idp_connectors.workforce.logout_token import LogoutClaims, LogoutUnavailableError
from tests.authz_server.front_half import NOW, FrontHalf
from tests.authz_server.test_person_changes import epoch_of, is_living, logged_in
from token_exchange.claims import Refusal

PATH = "/oauth/backchannel-logout/corp"
CLAIMS = LogoutClaims(
    token_id="jti-1",
    issued_at=NOW,
    expires_at=NOW + 151,
    subject="sub-of-alice",
    upstream_session="kc-1",
)
WRONG = Refusal("invalid_request", "The token is wrong.", "secret detail", "jwt.signature")


class Provider:
    """An identity provider whose verdict on every logout token is set by the test."""

    def __init__(self) -> None:
        self.verdict: LogoutClaims | Refusal | Exception = CLAIMS
        self.seen: list[str] = []

    async def verify_logout_token(self, unverified_token: str, now: int) -> LogoutClaims | Refusal:
        del now
        self.seen.append(unverified_token)
        if isinstance(self.verdict, Exception):
            raise self.verdict
        return self.verdict


@pytest.fixture
def provider(half: FrontHalf) -> Provider:
    made = Provider()
    half.logins = {"corp": made, "local": half.accounts}  # type: ignore[dict-item]
    return made


def post(half: FrontHalf, path: str = PATH, **request: Any) -> Response:
    browser = TestClient(half.app, base_url=half.issuer)
    return browser.post(path, **({"data": {"logout_token": "t.o.k"}} | request))


@pytest.mark.requirement("OIDC-BCL-2.6")
def test_a_logout_token_ends_the_session_and_what_was_issued(
    half: FrontHalf, provider: Provider
) -> None:
    alice, bob = logged_in(half, "alice", "kc-1"), logged_in(half, "bob", "kc-2")
    answer = post(half)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["cache-control"] == "no-store"  # §2.8
    assert provider.seen == ["t.o.k"]
    assert not is_living(half, alice)
    assert epoch_of(half, alice) == NOW
    assert is_living(half, bob)
    assert epoch_of(half, bob) == 0
    assert half.cuts(EventType.PERSON_CHANGED)[0].user == alice.session.sub
    assert half.cuts(EventType.LOGOUT_SUCCEEDED)[0].detail == "persons cut off: 1"


def test_a_token_that_names_only_a_session_ends_it(half: FrontHalf, provider: Provider) -> None:
    alice = logged_in(half, "alice", "kc-1")
    provider.verdict = replace(CLAIMS, subject=None)
    assert post(half).status_code == 200
    assert not is_living(half, alice)
    assert epoch_of(half, alice) == NOW


def test_a_token_that_names_only_a_person_ends_all_their_sessions(
    half: FrontHalf, provider: Provider
) -> None:
    desk, phone = logged_in(half, "alice", "kc-1"), logged_in(half, "alice", "kc-9")
    provider.verdict = replace(CLAIMS, upstream_session=None)
    assert post(half).status_code == 200
    assert not is_living(half, desk)
    assert not is_living(half, phone)


def test_a_token_about_somebody_unknown_is_accepted(half: FrontHalf, provider: Provider) -> None:
    assert provider.verdict is CLAIMS
    assert post(half).status_code == 200
    assert half.cuts(EventType.LOGOUT_SUCCEEDED)[0].detail == "persons cut off: 0"


@pytest.mark.requirement("OIDC-BCL-2.6")
def test_a_token_used_twice_is_refused(half: FrontHalf, provider: Provider) -> None:
    del provider
    assert post(half).status_code == 200
    half.clock.now += 100
    alice = logged_in(half, "alice", "kc-1")
    again = post(half)
    assert (again.status_code, again.json()["error"]) == (400, "invalid_request")
    assert half.spool.of(EventType.LOGOUT_REFUSED)[0].reasons == ("logout.replayed",)
    assert is_living(half, alice)
    assert epoch_of(half, alice) == 0


def test_the_same_id_from_another_provider_is_another_token(
    half: FrontHalf, provider: Provider
) -> None:
    half.logins["other"] = provider  # type: ignore[assignment]
    assert post(half).status_code == 200
    assert post(half, "/oauth/backchannel-logout/other").status_code == 200


@pytest.mark.requirement("OIDC-BCL-2.6")
def test_a_token_its_provider_would_not_send_ends_nothing(
    half: FrontHalf, provider: Provider
) -> None:
    alice = logged_in(half, "alice", "kc-1")
    provider.verdict = WRONG
    answer = post(half)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
    assert "secret detail" not in answer.text
    assert is_living(half, alice)
    assert epoch_of(half, alice) == 0
    (event,) = half.spool.of(EventType.LOGOUT_REFUSED)
    assert (event.reasons, event.object_ref) == (("jwt.signature",), "IdentityProvider/corp")


@pytest.mark.parametrize("name", ["local", "unknown", "x" * 300, "%00", "..%2f"])
def test_a_provider_that_sends_no_logout_tokens_is_refused(
    half: FrontHalf, provider: Provider, name: str
) -> None:
    answer = post(half, f"/oauth/backchannel-logout/{name}")
    assert answer.status_code in {400, 404}
    assert provider.seen == []


@pytest.mark.parametrize(
    "request_",
    [
        {"data": {}},
        {"data": {"logout_token": ""}},
        {"data": {"logout_token": ["a.b.c", "d.e.f"]}},
        {"data": {"token": "a.b.c"}},
        {"data": {"logout_token": "x" * 20_000}},
        {"data": None, "json": {"logout_token": "a.b.c"}},
        {"params": {"logout_token": "a.b.c"}},
    ],
)
def test_a_form_without_exactly_one_token_is_refused(
    half: FrontHalf, provider: Provider, request_: dict[str, Any]
) -> None:
    answer = post(half, **request_)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
    assert provider.seen == []
    assert len(half.spool.of(EventType.LOGOUT_REFUSED)) == 1


def test_keys_that_cannot_be_fetched_ask_for_another_try(
    half: FrontHalf, provider: Provider
) -> None:
    provider.verdict = LogoutUnavailableError("timeout")
    assert post(half).status_code == 503
    (event,) = half.spool.of(EventType.LOGOUT_REFUSED)
    assert (event.reasons, event.detail) == (("logout.keys",), "timeout")
    provider.verdict = CLAIMS
    assert post(half).status_code == 200


def test_what_could_not_be_done_may_be_sent_again(
    half: FrontHalf, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> bool:
        raise DatabaseBusyError("another process keeps the write lock")

    alice = logged_in(half, "alice", "kc-1")
    with monkeypatch.context() as busy:
        busy.setattr(half.parts.person_cuts, "apply", refuse)
        assert post(half).status_code == 503
    assert epoch_of(half, alice) == 0
    assert post(half).status_code == 200
    assert epoch_of(half, alice) == NOW
    assert len(provider.seen) == 2


def test_logout_is_done_and_recorded_although_the_spool_is_full(
    half: FrontHalf, provider: Provider
) -> None:
    alice = logged_in(half, "alice", "kc-1")
    half.spool.is_broken = True
    assert post(half).status_code == 200
    assert epoch_of(half, alice) == NOW
    assert len(half.cuts(EventType.LOGOUT_SUCCEEDED)) == len(provider.seen) == 1


def test_a_stale_registry_answers_nothing(half: FrontHalf, provider: Provider) -> None:
    half.live.stale = True
    assert post(half).status_code == 503
    assert provider.seen == []
