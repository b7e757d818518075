"""People of a real Keycloak: their login, their groups, and what stops when Keycloak says so.

One Keycloak and one whole stack for all of it. Every change is made in Keycloak, by its
administrator or its own pages; what is measured is the next call of an agent that holds a token.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, cast
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
import pytest

from compose.demo.browser import Browser, Page, RefusedError, to_login
from compose.demo.people import PASSWORDS, KeycloakPeople, new_keycloak_people
from compose.demo.stack import Stack
from credential_providers.vault.seal import seal_secret
from idp_connectors.evidence import Person
from idp_connectors.workforce.keycloak import KeycloakProvider, KeycloakSettings
from idp_connectors.workforce.login import LoginAttempt, LoginFailure, PersonToken, UpstreamLogin
from idp_connectors.workforce.parts import WorkforceParts
from outbound.discovery import DiscoveryCache
from outbound.fetcher import Fetcher
from outbound.jwks import JwksCache
from tests.forging import part
from tests.services.common import service
from tests.services.keycloak import Realm
from tests.stack import (
    TestAgent,
    admin,
    demo_objects,
    free_ports,
    held_port,
    prepare,
    tell,
)
from tests.witness import Witness
from token_exchange.claims import Refusal
from token_exchange.token_types import TOKEN_TYPE_ID_TOKEN

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]

T = TypeVar("T")

POLL_SECONDS = 5.0  # what the issue allows, beside one call
BLIND_SECONDS = 15  # less than Keycloak needs to start again
EVERYDAY = ["get_account", "list_hours"]


@dataclass
class Corp:
    """A Keycloak with its administrator, and a stack whose people are there."""

    people: KeycloakPeople
    realm: Realm
    stack: Stack
    keycloak: contextlib.ExitStack


@pytest.fixture(scope="module")
def corp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corp]:
    directory = tmp_path_factory.mktemp("corp")
    with contextlib.ExitStack() as held:
        with contextlib.ExitStack() as holding:
            port = held_port(holding)
        stack = Stack(directory / "stack", ports=free_ports())
        with service("Keycloak"):
            people = new_keycloak_people(directory / "keycloak", port, stack.issuer)
        people.join(stack)
        keycloak = held.enter_context(contextlib.ExitStack())
        keycloak.enter_context(people.keycloak.running())
        held.enter_context(stack)
        stack.start_all()
        with admin(stack) as api:
            key = api.call("GET", "/vault-key")["jwk"]
            for name, value in people.secrets().items():
                sealed = seal_secret(name, value, key)
                api.call("PUT", f"/secrets/{name}", json={"sealed": sealed})
        objects = demo_objects(stack)
        for each in objects:
            if each["kind"] == "IdentityProvider":
                each["spec"]["watch"]["blind_after_seconds"] = BLIND_SECONDS
        prepare(stack, objects)
        realm = Realm(people.keycloak)
        held.callback(realm.close)
        yield Corp(people, realm, stack, keycloak)


@pytest.fixture
def agent(corp: Corp) -> TestAgent:
    return TestAgent(corp.stack)


def works(agent: TestAgent, tool: str = "list_hours", **arguments: object) -> bool:
    """Whether a call goes through; a refusal must be the 401 that asks to come again."""
    answer = agent.call("crm", tool, arguments)
    if answer.status_code == httpx2.codes.UNAUTHORIZED:
        # A call that was under way is cut off as revoked; the next one is asked to refresh.
        category = answer.json()["error"]["data"]["category"]
        assert category in {"needs_step_up", "revoked"}, answer.text
        return False
    assert answer.status_code == httpx2.codes.OK, answer.text
    return not answer.json()["result"].get("isError", False)


def stopped_after(agent: TestAgent, change: Callable[[], object]) -> float:
    """Seconds from a change in Keycloak, answered, to the start of the first refused call."""
    assert works(agent)
    change()
    changed = time.monotonic()
    while time.monotonic() - changed < POLL_SECONDS * 2:
        asked = time.monotonic()
        if not works(agent):
            return asked - changed
        time.sleep(0.05)
    raise AssertionError("calls still go through")


def log_in_again(agent: TestAgent, person: str, tools: list[str]) -> dict[str, Any]:
    """A new token, as soon as the second of the cut is over; its claims."""
    until = time.monotonic() + 5
    while True:
        try:
            return part(agent.token_for(person, "crm", tools), 1)
        except RefusedError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


@pytest.mark.requirement("C34")
def test_people_log_in_at_keycloak_and_their_groups_count(corp: Corp, agent: TestAgent) -> None:
    witness = Witness(corp.stack)
    claims = part(agent.token_for("alice", "crm", EVERYDAY), 1)
    assert sorted(claims["uctx"]["groups"]) == ["keycloak/staff", "keycloak/support"]
    assert claims["uctx"]["name"] == "Alice Archer"
    assert works(agent, "get_account", id=17)

    other = TestAgent(corp.stack)
    claims = part(other.token_for("bob", "crm", EVERYDAY), 1)
    assert claims["uctx"]["groups"] == ["keycloak/staff"]
    assert works(other, "list_hours")
    assert not works(other, "get_account", id=17)
    assert witness.event("login.succeeded", user_name="Alice Archer")


def test_a_wrong_password_is_keycloaks_to_refuse(corp: Corp, agent: TestAgent) -> None:
    url, _ = agent.authorization_url("crm", EVERYDAY)
    browser = agent.browser()
    try:
        page = to_login(browser, browser.open(url))
        assert isinstance(page, Page)
        assert page.url.startswith(corp.people.keycloak.base_url)
        again = browser.submit(page, {"username": "alice", "password": "not hers"})
        assert isinstance(again, Page)
        assert again.asks_password
        assert again.url.startswith(corp.people.keycloak.base_url)
    finally:
        browser.close()


@pytest.mark.requirement("trap-person-change")
def test_a_group_removed_in_keycloak_stops_the_next_call(
    corp: Corp, agent: TestAgent, capsys: pytest.CaptureFixture[str]
) -> None:
    log_in_again(agent, "alice", EVERYDAY)
    witness = Witness(corp.stack)
    try:
        took = stopped_after(agent, lambda: corp.realm.leave("alice", "support"))
        tell(capsys, f"group removed: the calls stopped after {took:.2f} s")
        assert took <= POLL_SECONDS
        assert witness.event("person.changed", says="person.groups", user_name="Alice Archer")
        claims = log_in_again(agent, "alice", EVERYDAY)
        assert claims["uctx"]["groups"] == ["keycloak/staff"]
        assert works(agent, "list_hours")
        assert not works(agent, "get_account", id=17)
    finally:
        corp.realm.join("alice", "support")
    assert not eventually(lambda: works(agent), expected=False)
    log_in_again(agent, "alice", EVERYDAY)
    assert works(agent, "get_account", id=17)


def eventually(
    question: Callable[[], bool], *, expected: bool, seconds: float = POLL_SECONDS * 2
) -> bool:
    """The answer, once it is as expected or the time is over."""
    until = time.monotonic() + seconds
    while (answer := question()) is not expected and time.monotonic() < until:
        time.sleep(0.05)
    return answer


@pytest.mark.requirement("trap-person-change")
def test_a_person_disabled_in_keycloak_stops_the_next_call_and_does_not_come_back(
    corp: Corp, agent: TestAgent, capsys: pytest.CaptureFixture[str]
) -> None:
    log_in_again(agent, "bob", EVERYDAY)
    bystander = TestAgent(corp.stack)
    log_in_again(bystander, "alice", EVERYDAY)
    witness = Witness(corp.stack)
    try:
        took = stopped_after(agent, lambda: corp.realm.enable("bob", False))
        tell(capsys, f"person disabled: the calls stopped after {took:.2f} s")
        assert took <= POLL_SECONDS
        assert witness.event("person.changed", says="person.disabled", user_name="Bob Baker")
        with pytest.raises(RefusedError):
            agent.token_for("bob", "crm", EVERYDAY)
        assert works(bystander)
    finally:
        corp.realm.enable("bob", True)
    time.sleep(POLL_SECONDS)
    log_in_again(agent, "bob", EVERYDAY)
    assert works(agent)


@pytest.mark.requirement("trap-person-change")
def test_a_session_ended_in_keycloak_stops_the_next_call(
    corp: Corp, agent: TestAgent, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seen in the events alone: Keycloak is told to keep its logout tokens to itself."""
    corp.realm.log_out("bob")
    time.sleep(POLL_SECONDS)
    log_in_again(agent, "bob", EVERYDAY)
    session = corp.realm.sessions("bob")[-1]
    told = f"{corp.stack.issuer}/oauth/backchannel-logout/keycloak"
    corp.realm.change_client("countersign", **{"backchannel.logout.url": ""})
    witness = Witness(corp.stack)
    try:
        took = stopped_after(agent, lambda: corp.realm.end_session(session))
    finally:
        corp.realm.change_client("countersign", **{"backchannel.logout.url": told})
    tell(capsys, f"session ended by an administrator: the calls stopped after {took:.2f} s")
    assert took <= POLL_SECONDS
    assert witness.event("person.changed", says="person.session_ended", user_name="Bob Baker")


def test_a_role_taken_in_keycloak_stops_the_next_call(
    corp: Corp, agent: TestAgent, capsys: pytest.CaptureFixture[str]
) -> None:
    log_in_again(agent, "alice", EVERYDAY)
    try:
        took = stopped_after(agent, lambda: corp.realm.role("alice", "shift-lead", granted=False))
        tell(capsys, f"role taken: the calls stopped after {took:.2f} s")
        assert took <= POLL_SECONDS
    finally:
        corp.realm.role("alice", "shift-lead", granted=True)
        time.sleep(POLL_SECONDS)


@pytest.mark.requirement("OIDC-BCL-2.6")
def test_a_logout_at_keycloak_reaches_us_over_the_back_channel(
    corp: Corp, agent: TestAgent, capsys: pytest.CaptureFixture[str]
) -> None:
    """Keycloak posts its logout token before it answers, long before the next poll."""
    log_in_again(agent, "bob", EVERYDAY)
    witness = Witness(corp.stack)
    took = stopped_after(agent, lambda: corp.realm.log_out("bob"))
    tell(capsys, f"logged out at Keycloak, by back channel: the calls stopped after {took:.2f} s")
    assert took <= 1
    event = witness.event("logout.succeeded", object_ref="IdentityProvider/keycloak")
    assert event["detail"] == "persons cut off: 1"


@pytest.mark.requirement("OIDC-BCL-2.6")
def test_logout_tokens_for_others_and_of_other_realms_are_refused(
    corp: Corp, agent: TestAgent
) -> None:
    """Keycloak signs them truly; they are not for us, or not of our realm."""
    log_in_again(agent, "alice", EVERYDAY)
    ours = {"backchannel.logout.url": f"{corp.stack.issuer}/oauth/backchannel-logout/keycloak"}
    client = {
        "clientId": "countersign",
        "publicClient": True,
        "redirectUris": [OTHER_CALLBACK],
        "attributes": ours,
    }
    partner = corp.realm.add_realm("partner", "alice", "bob", client=client)
    corp.realm.change_client("other-program", **ours)
    try:
        for realm, client_id, rule in (
            (corp.realm, "other-program", "jwt.audience"),
            (partner, "countersign", "person_token.issuer"),
        ):
            witness = Witness(corp.stack)
            log_in_at(realm, "bob", client_id)
            realm.log_out("bob")
            refused = witness.event("logout.refused", says=rule)
            assert refused["object_ref"] == "IdentityProvider/keycloak"
    finally:
        corp.realm.change_client("other-program", **{"backchannel.logout.url": ""})
        partner.close()
    assert works(agent)


OTHER_CALLBACK = "http://127.0.0.1:9/callback"


def log_in_at(realm: Realm, person: str, client_id: str) -> dict[str, str]:
    """A login at Keycloak itself for some client; the code redeemed by nobody yet."""
    query = {
        "response_type": "code",
        "client_id": client_id,
        "redirect_uri": OTHER_CALLBACK,
        "scope": "openid",
        "state": secrets.token_urlsafe(8),
        "nonce": secrets.token_urlsafe(8),
    }
    browser = Browser(stop_at=OTHER_CALLBACK)
    try:
        page = browser.open(f"{realm.issuer}/protocol/openid-connect/auth?{urlencode(query)}")
        assert isinstance(page, Page)
        answer = browser.submit(page, {"username": person, "password": PASSWORDS[person]})
    finally:
        browser.close()
    assert isinstance(answer, str), answer
    return {name: values[0] for name, values in parse_qs(urlsplit(answer).query).items()}


class Connector:
    """The connector of a stack's realm in this process, with nothing of the stack around it."""

    def __init__(self, corp: Corp, **changes: Any) -> None:
        self.corp = corp
        self.callback = f"{corp.stack.issuer}/oauth/callback/keycloak"
        keycloak = corp.people.keycloak
        self.settings = KeycloakSettings.model_validate(
            {
                "issuer": keycloak.issuer,
                "client_id": "countersign",
                "client_secret": "keycloak-client",
                "private_hosts": [f"127.0.0.1:{keycloak.port}"],
            }
            | changes
        )

    def run(self, work: Callable[[KeycloakProvider], Coroutine[Any, Any, T]]) -> T:
        async def inside() -> T:
            fetcher = Fetcher()
            parts = WorkforceParts(
                issuer=self.corp.stack.issuer,
                database=cast("Any", None),
                hashing=cast("Any", None),
                random=secrets.token_bytes,
                clock=time.time,  # noqa: TID251 - a real Keycloak has real time
                fetcher=fetcher,
                discovery=DiscoveryCache(fetcher, time.monotonic),
                jwks=JwksCache(fetcher, time.monotonic),
                secrets=cast("Any", self),
            )
            provider = KeycloakProvider("keycloak", self.settings, ("*",), parts)
            try:
                return await work(provider)
            finally:
                await fetcher.aclose()

        return asyncio.run(inside())

    async def open(self, name: str) -> str:
        """As the vault: the secret of this name."""
        return self.corp.people.secrets()[name]

    def log_in(self, person: str) -> UpstreamLogin | LoginFailure:
        """The whole login of a person, with Keycloak's own pages in between."""
        attempt = LoginAttempt(
            redirect_uri=self.callback,
            state=secrets.token_urlsafe(16),
            nonce=secrets.token_urlsafe(16),
            code_verifier=secrets.token_urlsafe(48),
            login_not_before=0,
            must_log_in=False,
        )
        there = self.run(lambda provider: provider.begin(attempt, now()))
        assert not isinstance(there, LoginFailure), there
        browser = Browser(stop_at=self.callback)
        try:
            page = browser.open(there.url)
            assert isinstance(page, Page)
            back = browser.submit(page, {"username": person, "password": PASSWORDS[person]})
        finally:
            browser.close()
        assert isinstance(back, str), back
        answer = {name: values[0] for name, values in parse_qs(urlsplit(back).query).items()}
        return self.run(lambda provider: provider.finish(attempt, answer, now()))

    def asked_again(self, login: UpstreamLogin) -> Person | UpstreamLogin | LoginFailure:
        """What the provider says of the person today."""
        return self.run(lambda provider: provider.revalidate(login.person, login.upstream, now()))


def now() -> int:
    return int(time.time())  # noqa: TID251 - a real Keycloak has real time


def logged_in(connector: Connector, person: str) -> UpstreamLogin:
    login = connector.log_in(person)
    assert isinstance(login, UpstreamLogin), login
    return login


def test_asked_again_keycloak_says_the_groups_of_now(corp: Corp) -> None:
    connector = Connector(corp)
    login = logged_in(connector, "alice")
    assert sorted(login.person.groups) == ["keycloak/staff", "keycloak/support"]
    corp.realm.leave("alice", "support")
    try:
        again = connector.asked_again(login)
    finally:
        corp.realm.join("alice", "support")
    assert isinstance(again, UpstreamLogin), again
    assert again.person.groups == ("keycloak/staff",)
    assert again.person.subject == login.person.subject


@pytest.mark.parametrize("end", ["disabled", "logged out", "session ended"])
def test_asked_again_about_somebody_who_is_gone_keycloak_refuses(corp: Corp, end: str) -> None:
    connector = Connector(corp)
    login = logged_in(connector, "bob")
    assert isinstance(connector.asked_again(login), UpstreamLogin)
    if end == "disabled":
        corp.realm.enable("bob", False)
    elif end == "logged out":
        corp.realm.log_out("bob")
    else:
        for session in corp.realm.sessions("bob"):
            corp.realm.end_session(session)
    try:
        answer = connector.asked_again(login)
    finally:
        corp.realm.enable("bob", True)
    assert isinstance(answer, LoginFailure), answer
    assert answer.code == "ended"


def test_roles_count_as_groups_where_the_operator_says_so(corp: Corp) -> None:
    login = logged_in(Connector(corp, realm_roles=True), "alice")
    assert "keycloak/realm-role:shift-lead" in login.person.groups
    assert "keycloak/realm-role:employee" in login.person.groups  # by the group staff


def id_token_of(corp: Corp, person: str, client_id: str, secret: str) -> str:
    """An ID token Keycloak issued to some client."""
    answer = log_in_at(corp.realm, person, client_id)
    form = {
        "grant_type": "authorization_code",
        "code": answer["code"],
        "redirect_uri": OTHER_CALLBACK,
        "client_id": client_id,
        "client_secret": secret,
    }
    url = f"{corp.people.keycloak.issuer}/protocol/openid-connect/token"
    return str(httpx2.post(url, data=form, trust_env=False).raise_for_status().json()["id_token"])


@pytest.mark.requirement("C34")
def test_a_token_of_another_client_or_realm_speaks_for_nobody(corp: Corp) -> None:
    secret = str(corp.people.keycloak.values["other_secret"])
    token = id_token_of(corp, "bob", "other-program", secret)
    connector = Connector(corp)

    def judge(client_id: str, among: Connector = connector) -> PersonToken | Refusal:
        return among.run(
            lambda provider: provider.verify_person_token(
                token, TOKEN_TYPE_ID_TOKEN, (client_id,), 300, now()
            )
        )

    accepted, refused = judge("other-program"), judge("countersign")
    assert isinstance(accepted, PersonToken), accepted
    assert isinstance(refused, Refusal)
    assert refused.rule in {"person_token.audience", "person_token.party"}
    master = corp.people.keycloak.issuer.replace("/realms/corp", "/realms/master")
    elsewhere = judge("other-program", Connector(corp, issuer=master))
    assert isinstance(elsewhere, Refusal)
    assert elsewhere.rule == "person_token.issuer"


@pytest.mark.requirement("trap-directory-silent")
def test_a_keycloak_that_is_down_vouches_for_nobody_and_one_that_is_back_is_watched_again(
    corp: Corp, agent: TestAgent, capsys: pytest.CaptureFixture[str]
) -> None:
    log_in_again(agent, "alice", EVERYDAY)
    log = corp.stack.directory / "serve.log"
    assert works(agent)
    down = time.monotonic()
    corp.keycloak.close()  # which may take longer than the limit
    assert eventually(lambda: works(agent), expected=False, seconds=BLIND_SECONDS * 3) is False
    silent = time.monotonic() - down
    assert silent >= BLIND_SECONDS - POLL_SECONDS
    assert "directory.silent" in log.read_text()
    with pytest.raises((RefusedError, httpx2.ConnectError)):  # the browser finds nobody there
        agent.token_for("alice", "crm", EVERYDAY)

    corp.keycloak.enter_context(corp.people.keycloak.running())
    assert eventually(lambda: "directory.answers" in log.read_text(), expected=True)
    log_in_again(agent, "alice", EVERYDAY)
    try:
        took = stopped_after(agent, lambda: corp.realm.leave("alice", "staff"))
    finally:
        corp.realm.join("alice", "staff")
    tell(
        capsys,
        f"Keycloak down: the calls stopped after {silent:.1f} s, as declared ({BLIND_SECONDS} s); "
        f"started again, a group removed stopped them after {took:.2f} s",
    )
    assert took <= POLL_SECONDS
