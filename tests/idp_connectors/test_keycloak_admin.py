"""The reader of Keycloak's admin API: what it sends, by whom, and what becomes of failures."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import pytest

from idp_connectors.workforce.keycloak_directory import (
    AdminAccess,
    KeycloakDirectory,
    realm_of,
)
from idp_connectors.workforce.person_changes import ChangesUnavailableError
from outbound.fetcher import Fetched, Fetcher, FetchError, FetchPolicy

ACCESS = AdminAccess(
    base_url="https://login.corp.example/auth",
    realm="corp",
    client_id="countersign-watch",
    client_secret="the-watch-secret",
)
TOKEN_URL = "https://login.corp.example/auth/realms/corp/protocol/openid-connect/token"
EVENTS_URL = "https://login.corp.example/auth/admin/realms/corp/admin-events"
POLICY = FetchPolicy(private_hosts=frozenset({"login.corp.example"}), total_seconds=1.0)


@dataclass
class Network:
    """Takes the fetcher's place; answers as told, by path."""

    events: Any = field(default_factory=list)
    status: int = 200
    failure: Exception | None = None
    sent: list[tuple[str, str, dict[str, str], Mapping[str, str]]] = field(default_factory=list)
    policies: list[FetchPolicy] = field(default_factory=list)

    async def get(
        self, url: str, policy: FetchPolicy, *, headers: Sequence[tuple[str, str]] = ()
    ) -> Fetched:
        self._note("GET", url, policy, headers, {})
        return _fetched(self.status, self.events)

    async def post_form(
        self,
        url: str,
        form: Mapping[str, str],
        policy: FetchPolicy,
        *,
        headers: Sequence[tuple[str, str]] = (),
    ) -> Fetched:
        token = {"access_token": f"token-{len(self.sent)}", "expires_in": 300}
        self._note("POST", url, policy, headers, form)
        return _fetched(200, token)

    def _note(
        self,
        method: str,
        url: str,
        policy: FetchPolicy,
        headers: Sequence[tuple[str, str]],
        form: Mapping[str, str],
    ) -> None:
        self.sent.append((method, url, dict(headers), form))
        self.policies.append(policy)
        if self.failure is not None:
            raise self.failure


def _fetched(status: int, body: Any) -> Fetched:
    encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Fetched(status, {"content-type": "application/json"}, encoded)


async def access() -> AdminAccess:
    return ACCESS


def directory(network: Network) -> KeycloakDirectory:
    return KeycloakDirectory(access, cast("Fetcher", network), POLICY)


def ask(reader: KeycloakDirectory, **query: object) -> tuple[Mapping[str, Any], ...]:
    return asyncio.run(reader.admin_events(query))


def test_events_are_asked_for_as_the_service_account_by_our_own_fetcher() -> None:
    network = Network(events=[{"id": "e1"}])
    found = ask(directory(network), dateFrom=7, resourceTypes=["USER", "GROUP"])
    assert found == ({"id": "e1"},)
    (login, question) = network.sent
    assert login[:2] == ("POST", TOKEN_URL)
    assert login[3]["grant_type"] == "client_credentials"
    assert (login[3]["client_id"], login[3]["client_secret"]) == (
        "countersign-watch",
        "the-watch-secret",
    )
    method, url, headers, _ = question
    assert (method, url.split("?")[0]) == ("GET", EVENTS_URL)
    assert parse_qs(urlsplit(url).query) == {"dateFrom": ["7"], "resourceTypes": ["USER", "GROUP"]}
    assert headers["Authorization"] == "Bearer token-0"
    assert set(network.policies) == {POLICY}


def test_one_login_serves_many_questions() -> None:
    network = Network()
    reader = directory(network)

    async def twice() -> None:
        await reader.admin_events({})
        await reader.user_events({})

    asyncio.run(twice())
    assert [method for method, *_ in network.sent] == ["POST", "GET", "GET"]


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (FetchError("timeout"), "timeout"),
        (FetchError("too_large"), "too_large"),
        (FetchError("address_refused", "not a public address"), "address_refused"),
        (FetchError("redirected"), "redirected"),
        (FetchError("tls", "SSLError"), "tls"),
    ],
)
def test_what_the_fetcher_refuses_is_said_by_its_code(failure: FetchError, code: str) -> None:
    with pytest.raises(ChangesUnavailableError) as raised:
        ask(directory(Network(failure=failure)))
    assert raised.value.code == code


@pytest.mark.parametrize(
    ("status", "events", "code"),
    [
        (401, {"error": "invalid_token secret-text"}, "status_401"),
        (403, {"error": "unknown_error"}, "status_403"),
        (500, b"<html>secret-text</html>", "status_500"),
        (200, b"not json secret-text", "malformed"),
        (200, {"no": "list"}, "malformed"),
        (200, ["no object"], "malformed"),
        (200, b"", "malformed"),
    ],
)
def test_an_answer_that_is_no_list_of_events_is_a_failure_without_its_text(
    status: int, events: Any, code: str
) -> None:
    with pytest.raises(ChangesUnavailableError) as raised:
        ask(directory(Network(status=status, events=events)))
    assert "secret-text" not in str(raised.value)
    assert raised.value.code == code
    assert raised.value.__cause__ is None


def test_after_a_failure_the_service_account_logs_in_anew() -> None:
    """A Keycloak that was restarted, or a secret that was changed, mends itself."""
    network = Network(status=401, events={})
    reader = directory(network)
    with pytest.raises(ChangesUnavailableError):
        ask(reader)
    network.status, network.events = 200, []
    assert ask(reader) == ()
    assert [method for method, *_ in network.sent][-2:] == ["POST", "GET"]


def test_the_secret_is_in_no_representation() -> None:
    assert "the-watch-secret" not in repr(ACCESS)


@pytest.mark.parametrize(
    ("issuer", "expected"),
    [
        ("https://h.example/realms/corp", ("https://h.example", "corp")),
        ("https://h.example/auth/realms/corp", ("https://h.example/auth", "corp")),
        ("https://h.example/realms/", None),
        ("https://h.example/realms/a/b", None),
        ("https://h.example/corp", None),
    ],
)
def test_a_realm_is_told_from_its_issuer(issuer: str, expected: tuple[str, str] | None) -> None:
    assert realm_of(issuer) == expected
