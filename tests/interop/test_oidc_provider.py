"""People who log in at npm oidc-provider: the whole way through real pages, and every way astray.

Countersign, its gateway and the demo's servers run as real processes; the identity provider is a
certified implementation nobody here wrote.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest

from compose.demo.stack import Stack
from credential_providers.vault.seal import seal_secret
from tests.forging import part
from tests.interop.web_person import Seen, WebPerson
from tests.services import oidc_provider
from tests.services.common import service
from tests.services.oidc_provider import CLIENT_SECRET, OidcProviderServer
from tests.stack import (
    CALLBACK,
    TestAgent,
    admin,
    await_event,
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
        url, pending = agent.authorization_url("crm", TOOLS, **more)
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
        yield World(stack, idp, mallory, running)


def last_failure(world: World) -> dict[str, Any]:
    return await_event(world.stack, type="login.failed")


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
    event = await_event(world.stack, type="login.succeeded", user=claims["sub"])
    assert event["user_name"] == "Carol Partner"
