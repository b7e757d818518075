"""People who log in at npm oidc-provider: the whole way through real pages, and every way astray.

Countersign, its gateway and the demo's servers run as real processes; the identity provider is a
certified implementation nobody here wrote.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest

from compose.demo.stack import Stack, StackError
from countersign.admin_client import AdminError
from credential_providers.vault.seal import seal_secret
from tests.forging import part
from tests.interop.web_person import Seen, WebPerson
from tests.services import oidc_provider
from tests.services.common import service
from tests.services.oidc_provider import CLIENT_SECRET, OidcProviderServer
from tests.stack import (
    CALLBACK,
    PASSWORDS,
    TestAgent,
    admin,
    audit_events,
    demo_objects,
    held_port,
    prepare,
    running_stack,
)

pytestmark = pytest.mark.processes

TOOLS = ["get_account", "list_hours"]
PARTNERS = """
@id("grant-partners-read")
permit (principal in AgentGroup::"support-agents", action in Action::"call_read",
        resource in McpServer::"crm")
when { context.run has user && context.run.user in Group::"partner/partners" };
"""


@dataclass(frozen=True)
class World:
    """Everything that runs."""

    stack: Stack
    idp: OidcProviderServer
    mallory: OidcProviderServer  # another declared provider
    running: contextlib.ExitStack
    told: set[str]  # the audit events a test has looked at

    def agent(self) -> TestAgent:
        return TestAgent(self.stack)

    def person(self) -> WebPerson:
        person = WebPerson((CALLBACK,))
        self.running.callback(person.http.close)
        return person

    def to_login(
        self, person: WebPerson, agent: TestAgent, **more: str
    ) -> tuple[Seen, dict[str, str]]:
        """Open the agent's authorization request: our login page, and what redeems the code."""
        url, pending = agent.authorization_url("crm", TOOLS, **{"prompt": "consent"} | more)
        seen = person.open(url)
        assert seen.status == 200, seen
        return seen, pending

    def log_in(self, person: WebPerson, login: Seen, username: str) -> Seen:
        """Choose the provider, log in and agree there; what our server then shows."""
        seen = person.open(login.link("Partner company"))
        if "password" in seen.html:
            seen = person.submit(seen, username=username, password=f"{username}-password")
        if seen.url.startswith(self.idp.issuer):
            seen = person.submit(seen)
        return seen

    def callback_url(self, person: WebPerson, login: Seen, username: str = "carol") -> str:
        """The provider's answer for this login, caught before it reaches us."""
        at_us = person.stopping_at(f"{self.stack.issuer}/oauth/callback/")
        return self.log_in(at_us, login, username).url


def identity_provider(name: str, issuer: str, **settings: Any) -> dict[str, Any]:
    own = {
        "type": "oidc",
        "groups": ["partners", "staff"],
        "settings": {},
        "issuer": issuer,
        "client_id": "countersign",
        "client_secret": "partner-client",
        "scopes": ["openid", "profile", "groups"],
        "private_hosts": [urlsplit(issuer).netloc],
        "label": "Partner company" if name == "partner" else name,
    }
    del own["settings"]
    return {"kind": "IdentityProvider", "name": name, "spec": own | settings}


def objects_of(stack: Stack, *providers: dict[str, Any]) -> list[dict[str, Any]]:
    objects = demo_objects(stack)
    for each in objects:
        if each["kind"] == "Agent":
            groups = each["spec"]["acts_for"]["groups"]
            each["spec"]["acts_for"]["groups"] = [*groups, "partner/partners", "partner/staff"]
    return [
        *objects,
        *providers,
        {"kind": "Policy", "name": "partners", "spec": {"cedar": PARTNERS}},
    ]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with service("oidc-provider"):
        oidc_provider.install()
    directory = tmp_path_factory.mktemp("oidc-provider")
    with (
        contextlib.ExitStack() as running,
        running_stack(tmp_path_factory.mktemp("stack"), prepared=False) as stack,
    ):
        with contextlib.ExitStack() as holding:
            ports = held_port(holding), held_port(holding)
        idp, mallory = (
            running.enter_context(
                oidc_provider.running(
                    directory, port, relying_party=stack.issuer, provider_name=name
                )
            )
            for port, name in zip(ports, ("partner", "mallory"), strict=True)
        )
        providers = (
            identity_provider("partner", idp.issuer),
            identity_provider("mallory", mallory.issuer),
        )
        prepare(stack, objects_of(stack, *providers))
        with admin(stack) as api:
            key = api.call("GET", "/vault-key")["jwk"]
            sealed = seal_secret("partner-client", CLIENT_SECRET, key)
            api.call("PUT", "/secrets/partner-client", json={"sealed": sealed})
        yield World(stack, idp, mallory, running, set())


def flat(event: dict[str, Any]) -> dict[str, str]:
    """The event's texts."""
    return {name: value for name, value in event.items() if isinstance(value, str)}


def news(world: World, event_type: str, **wanted: str) -> dict[str, Any]:
    """The newest event of this type and with these fields, which no test has seen before."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        wanted_items = ({"type": event_type} | wanted).items()
        found = [each for each in audit_events(world.stack) if wanted_items <= flat(each).items()]
        if found and found[-1]["event_id"] not in world.told:
            world.told.update(each["event_id"] for each in found)
            return dict(found[-1])
        time.sleep(0.05)
    message = f"the audit has no new {event_type}"
    raise StackError(message)


@pytest.mark.requirement("C34")
def test_person_logs_in_there_consents_here_and_the_agent_acts_with_their_groups(
    world: World,
) -> None:
    agent, person = world.agent(), world.person()
    login, pending = world.to_login(person, agent)
    assert "or with a password" in login.html

    consent = world.log_in(person, login, "carol")
    assert "Carol Partner" in consent.html
    assert consent.url.startswith(f"{world.stack.issuer}/oauth/consent")
    back = person.submit(consent, answer="allow")
    answer = agent.token_request(agent.redemption(pending | {"code": back.answer["code"]}))
    assert answer.status_code == 200, answer.text

    token = answer.json()["access_token"]
    claims = part(token, 1)
    assert claims["sub"].startswith("usr_")
    assert "carol" not in str(claims["sub"])
    assert claims["uctx"]["groups"] == ["partner/partners", "partner/staff"]
    called = agent.call("crm", "get_account", {"id": 17}, token=token)
    assert not called.json()["result"].get("isError"), called.text
    event = news(world, "login.succeeded")
    assert (event["user"], event["user_name"]) == (claims["sub"], "Carol Partner")


# --- every way astray --------------------------------------------------------------------------


def assert_refused(world: World, seen: Seen, rule: str) -> dict[str, Any]:
    """A readable page, no redirect to anywhere, and the event that says why."""
    assert 400 <= seen.status < 600, seen
    assert "<h1>" in seen.html
    event = news(world, "login.failed")
    assert event["reasons"] == [rule], event
    return event


def with_query(url: str, **changes: str) -> str:
    """The same callback with other parameters."""
    parts = urlsplit(url)
    query = {**Seen(url).answer, **changes}
    return parts._replace(query=urlencode(query)).geturl()


@pytest.mark.requirement("attack-12")
def test_state_swapped_between_two_browsers_is_refused_in_both(world: World) -> None:
    one, two = world.person(), world.person()
    first = world.callback_url(one, world.to_login(one, world.agent())[0])
    second = world.callback_url(two, world.to_login(two, world.agent())[0], "dave")
    swapped = with_query(first, state=Seen(second).answer["state"])
    assert_refused(world, one.open(swapped), "login.state")
    assert_refused(world, two.open(first), "login.state")
    # The other's code under one's own state: the provider itself refuses the verifier.
    mixed = with_query(first, code=Seen(second).answer["code"])
    assert_refused(world, one.open(mixed), "login.ended")


@pytest.mark.requirement("attack-12")
def test_callback_on_another_browser_is_refused(world: World) -> None:
    person, other = world.person(), world.person()
    url = world.callback_url(person, world.to_login(person, world.agent())[0])
    assert_refused(world, other.open(url), "login.state")
    assert "consent" in person.open(url).url  # and nothing was used up


@pytest.mark.requirement("attack-12")
def test_callback_is_good_once(world: World) -> None:
    person = world.person()
    url = world.callback_url(person, world.to_login(person, world.agent())[0])
    assert "consent" in person.open(url).url
    assert_refused(world, person.open(url), "login.state")


@pytest.mark.requirement("attack-11")
def test_wrong_or_missing_iss_reaches_no_token_endpoint(world: World) -> None:
    for issuer in (world.mallory.issuer, ""):
        person = world.person()
        url = world.callback_url(person, world.to_login(person, world.agent())[0])
        event = assert_refused(
            world, person.open(with_query(url, iss=issuer)), "login.invalid_response"
        )
        assert "iss" in event["detail"]


@pytest.mark.requirement("attack-12")
def test_id_token_with_another_nonce_is_refused(world: World) -> None:
    """Somebody changed the request on its way to the provider."""
    person = world.person()
    login, _ = world.to_login(person, world.agent())
    there = person.stopping_at(f"{world.idp.issuer}/auth").open(login.link("Partner company"))
    seen = person.open(with_query(there.url, nonce="n" * 43))
    seen = person.submit(seen, username="carol", password="carol-password")
    event = assert_refused(world, person.submit(seen), "login.invalid_response")
    assert event["detail"] == "ID token: another nonce"


@pytest.mark.requirement("attack-11")
def test_response_at_the_path_of_another_provider_is_refused(world: World) -> None:
    person = world.person()
    url = world.callback_url(person, world.to_login(person, world.agent())[0])
    moved = url.replace("/callback/partner", "/callback/mallory")
    assert_refused(world, person.open(moved), "login.state")


def test_login_cancelled_there_is_said_and_another_way_is_open(world: World) -> None:
    person, agent = world.person(), world.agent()
    login, _ = world.to_login(person, agent)
    there = person.open(login.link("Partner company"))
    back = person.submit(there, cancel="yes")
    event = assert_refused(world, back, "login.refused")
    assert event["detail"] == "the provider answered access_denied"
    assert "did not log you in" in back.html
    consent = person.submit(back, username="alice", password=PASSWORDS["alice"])
    assert "consent" in consent.url


def test_client_the_provider_does_not_know_is_our_fault_not_the_persons(world: World) -> None:
    with admin(world.stack) as api:
        key = api.call("GET", "/vault-key")["jwk"]
        for value, rule in (("wrong", "login.unavailable"), (CLIENT_SECRET, None)):
            sealed = seal_secret("partner-client", value, key)
            api.call("PUT", "/secrets/partner-client", json={"sealed": sealed})
            person = world.person()
            seen = world.log_in(person, world.to_login(person, world.agent())[0], "carol")
            if rule is None:
                assert "consent" in seen.url
            else:
                event = assert_refused(world, seen, rule)
                assert event["detail"] == "code: token endpoint: invalid_client"


@pytest.mark.requirement("attack-29")
def test_two_people_with_one_address_are_two(world: World) -> None:
    subs = set()
    for username, name in (("carol", "Carol Partner"), ("dave", "Dave Partner")):
        person = world.person()
        seen = world.log_in(person, world.to_login(person, world.agent())[0], username)
        assert "consent" in seen.url
        subs.add(news(world, "login.succeeded", user_name=name)["user"])
    assert len(subs) == 2


def test_group_of_the_provider_that_grants_nothing_gets_nothing(world: World) -> None:
    agent, person = world.agent(), world.person()
    login, pending = world.to_login(person, agent)
    back = person.submit(world.log_in(person, login, "dave"), answer="allow")
    answer = agent.token_request(agent.redemption(pending | {"code": back.answer["code"]}))
    called = agent.call("crm", "get_account", {"id": 17}, token=answer.json()["access_token"])
    assert called.json()["result"]["isError"], called.text


def test_apply_names_the_field_that_is_wrong(world: World) -> None:
    wrong = identity_provider("wrong", "https://idp.example.com", groups_claim="email", isuer="x")
    with admin(world.stack) as api, pytest.raises(AdminError) as caught:
        api.call("POST", "/objects", json={"objects": [wrong]})
    text = str(caught.value)
    assert "groups_claim" in text
    assert "isuer" in text


def test_secrets_of_the_logins_are_in_no_log_and_no_table(world: World) -> None:
    person = world.person()
    url = world.callback_url(person, world.to_login(person, world.agent())[0])
    assert "consent" in person.open(url).url
    secret_texts = {CLIENT_SECRET, Seen(url).answer["code"], Seen(url).answer["state"]}
    written = b"".join(
        path.read_bytes() for path in world.stack.directory.rglob("*") if path.is_file()
    )
    assert [text for text in secret_texts if text.encode() in written] == []


def test_provider_that_is_down_is_said_and_the_password_still_works(world: World) -> None:
    """The last test: it stops the provider."""
    person = world.person()
    login, _ = world.to_login(person, world.agent())
    url = world.callback_url(person, login)
    world.idp.server.stop()
    event = assert_refused(world, person.open(url), "login.unavailable")
    assert "unreachable" in event["detail"]
    again = person.open(url)
    assert_refused(world, again, "login.state")
    fresh = world.person()
    there, _ = world.to_login(fresh, world.agent())
    consent = fresh.submit(there, username="alice", password=PASSWORDS["alice"])
    assert "consent" in consent.url
