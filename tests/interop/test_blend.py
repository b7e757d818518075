"""An agent that presents a person's token, of a real Keycloak and of npm oidc-provider.

One stack whose people are at two identity providers. Each has two applications: one the agents
list, and one they do not. Nothing of the stack sees the persons' logins there.
"""

import contextlib
import secrets
import shutil
import subprocess
import sys
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
import pytest

from compose.demo.browser import Browser, Page, to_login
from compose.demo.people import PASSWORDS, KeycloakPeople, new_keycloak_people
from compose.demo.stack import Stack
from credential_providers.vault.seal import seal_secret
from tests.forging import part
from tests.interop.web_person import WebPerson
from tests.services import oidc_provider
from tests.services.common import service
from tests.services.keycloak import Realm
from tests.services.oidc_provider import OidcProviderServer
from tests.stack import (
    ATTEST_HELPER,
    TestAgent,
    admin,
    demo_objects,
    free_ports,
    held_port,
    prepare,
    tell,
)
from tests.witness import Witness
from token_exchange.token_types import (
    GRANT_TOKEN_EXCHANGE,
    TOKEN_TYPE_ACCESS_TOKEN,
    TOKEN_TYPE_ID_TOKEN,
)

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]

PORTAL, OTHER_PORTAL = "support-portal", "other-portal"  # applications at Keycloak
CALLBACK = "http://127.0.0.1:9/callback"
SECRET = secrets.token_urlsafe(24)
ONE_SENTENCE = "The subject_token cannot be used by this request."
HASTY_SECONDS = 5
POLL_SECONDS = 5.0
PARTNERS = """
@id("grant-partners-read")
permit (principal in AgentGroup::"support-agents", action in Action::"call_read",
        resource in McpServer::"crm")
when { context.run has user && context.run.user in Group::"partner/partners" };
"""


@dataclass
class World:
    """Everything that runs, and the agents there are."""

    stack: Stack
    people: KeycloakPeople
    realm: Realm
    partner: OidcProviderServer
    helpers: dict[str, Path]

    def agent(self, name: str = "support-bot") -> TestAgent:
        return TestAgent(self.stack, name=name, helper=self.helpers[name])

    def ask(
        self, agent: TestAgent, token: str, token_type: str = TOKEN_TYPE_ID_TOKEN
    ) -> httpx2.Response:
        """The agent's exchange of a person's token."""
        return agent.token_request(
            {
                "grant_type": GRANT_TOKEN_EXCHANGE,
                "subject_token": token,
                "subject_token_type": token_type,
                "resource": self.stack.endpoint("crm"),
            }
        )

    def refused(
        self, agent: TestAgent, token: str, rule: str, token_type: str = TOKEN_TYPE_ID_TOKEN
    ) -> dict[str, Any]:
        """The exchange is refused with the RFC's error and one sentence; the event says why."""
        witness = Witness(self.stack)
        answer = self.ask(agent, token, token_type)
        assert answer.status_code == httpx2.codes.BAD_REQUEST, answer.text
        body = answer.json()
        assert body == {"error": "invalid_request", "error_description": ONE_SENTENCE}
        return witness.event("exchange.refused", says=rule, agent=agent.name)

    def claims(
        self, agent: TestAgent, token: str, token_type: str = TOKEN_TYPE_ID_TOKEN
    ) -> dict[str, Any]:
        answer = self.ask(agent, token, token_type)
        assert answer.status_code == httpx2.codes.OK, answer.text
        agent.tokens["crm"] = answer.json()["access_token"]
        return part(agent.tokens["crm"], 1)


def agent_object(plain: dict[str, Any], name: str, helper: Path, **acts_for: Any) -> dict[str, Any]:
    """The demo's agent under another name, as the program `helper`."""
    spec = dict(plain["spec"])
    digest = sha256(helper.read_bytes()).hexdigest()
    match = spec["attestation"]["match"] | {"unix.script_digest": f"sha-256:{digest}"}
    spec["attestation"] = spec["attestation"] | {"match": match}
    spec["acts_for"] = {
        "groups": ["keycloak/support", "keycloak/staff", "partner/partners"],
        "subject_tokens": [
            {"identity_provider": "keycloak", "client_ids": [PORTAL]},
            {"identity_provider": "partner", "client_ids": [oidc_provider.OTHER_CLIENT_ID]},
        ],
    } | acts_for
    return {"kind": "Agent", "name": name, "spec": spec}


def objects_of(stack: Stack, partner: OidcProviderServer, helpers: dict[str, Path]) -> list[Any]:
    objects = demo_objects(stack)
    plain = next(each for each in objects if each["kind"] == "Agent")
    others = [each for each in objects if each["kind"] != "Agent"]
    hasty = {"identity_provider": "keycloak", "client_ids": [PORTAL]}
    return [
        *others,
        {
            "kind": "IdentityProvider",
            "name": "partner",
            "spec": {
                "type": "oidc",
                "groups": ["partners", "staff"],
                "issuer": partner.issuer,
                "client_id": "countersign",
                "client_secret": "partner-client",
                "scopes": ["openid", "profile", "groups"],
                "private_hosts": [urlsplit(partner.issuer).netloc],
                "label": "Partner company",
            },
        },
        {"kind": "Policy", "name": "partners", "spec": {"cedar": PARTNERS}},
        agent_object(plain, "support-bot", helpers["support-bot"]),
        agent_object(plain, "other-bot", helpers["other-bot"]),
        agent_object(plain, "cli-bot", helpers["cli-bot"], consent="mandate"),
        agent_object(
            plain,
            "hasty-bot",
            helpers["hasty-bot"],
            consent="mandate",
            subject_tokens=[
                hasty | {"max_age_seconds": HASTY_SECONDS, "types": ["id_token", "access_token"]}
            ],
        ),
    ]


def portal(stack: Stack, client_id: str) -> dict[str, Any]:
    """An application of the realm: groups in its tokens, our issuer in its access tokens."""
    groups = {
        "claim.name": "groups",
        "full.path": "true",
        "id.token.claim": "true",
        "access.token.claim": "true",
    }
    for_us = {"included.custom.audience": stack.issuer, "access.token.claim": "true"}
    for_itself = {"included.client.audience": client_id, "access.token.claim": "true"}
    mappers = (
        ("groups", "oidc-group-membership-mapper", groups),
        ("for us", "oidc-audience-mapper", for_us),
        ("for itself", "oidc-audience-mapper", for_itself),
    )
    return {
        "clientId": client_id,
        "secret": SECRET,
        "enabled": True,
        "publicClient": False,
        "standardFlowEnabled": True,
        "redirectUris": [CALLBACK],
        "protocolMappers": [
            {
                "name": name,
                "protocol": "openid-connect",
                "protocolMapper": mapper,
                "config": config,
            }
            for name, mapper, config in mappers
        ],
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("blend")
    helpers = {"support-bot": ATTEST_HELPER}
    for name in ("other-bot", "hasty-bot"):
        helpers[name] = directory / f"{name}.py"
        shutil.copy(ATTEST_HELPER, helpers[name])
        helpers[name].write_text(f"{helpers[name].read_text()}# {name}\n")
    helpers["cli-bot"] = directory / "cli-bot.py"
    helpers["cli-bot"].write_text("from countersign.cli.main import main\n\nmain()\n")
    with contextlib.ExitStack() as held:
        with contextlib.ExitStack() as holding:
            ports = held_port(holding), held_port(holding)
        stack = Stack(directory / "stack", ports=free_ports())
        with service("Keycloak"):
            people = new_keycloak_people(directory / "keycloak", ports[0], stack.issuer)
        with service("oidc-provider"):
            oidc_provider.install()
        people.join(stack)
        held.enter_context(people.keycloak.running())
        partner = held.enter_context(
            oidc_provider.running(
                directory, ports[1], relying_party=stack.issuer, provider_name="partner"
            )
        )
        held.enter_context(stack)
        stack.start_all()
        with admin(stack) as api:
            key = api.call("GET", "/vault-key")["jwk"]
            known = people.secrets() | {"partner-client": oidc_provider.CLIENT_SECRET}
            for name, value in known.items():
                api.call("PUT", f"/secrets/{name}", json={"sealed": seal_secret(name, value, key)})
        prepare(stack, objects_of(stack, partner, helpers))
        realm = Realm(people.keycloak)
        held.callback(realm.close)
        for client_id in (PORTAL, OTHER_PORTAL):
            realm.call("POST", "clients", portal(stack, client_id))
        yield World(stack, people, realm, partner, helpers)


def keycloak_tokens(world: World, person: str, client_id: str = PORTAL) -> dict[str, str]:
    """What Keycloak gives an application for somebody who logs in there."""
    query = {
        "response_type": "code",
        "client_id": client_id,
        "redirect_uri": CALLBACK,
        "scope": "openid profile",
        "nonce": secrets.token_urlsafe(8),
    }
    endpoint = f"{world.realm.issuer}/protocol/openid-connect"
    browser = Browser(stop_at=CALLBACK)
    try:
        page = browser.open(f"{endpoint}/auth?{urlencode(query)}")
        assert isinstance(page, Page)
        answer = browser.submit(page, {"username": person, "password": PASSWORDS[person]})
    finally:
        browser.close()
    assert isinstance(answer, str), answer
    form = {
        "grant_type": "authorization_code",
        "code": parse_qs(urlsplit(answer).query)["code"][0],
        "redirect_uri": CALLBACK,
        "client_id": client_id,
        "client_secret": SECRET,
    }
    answered = httpx2.post(f"{endpoint}/token", data=form, trust_env=False).raise_for_status()
    return {name: value for name, value in answered.json().items() if isinstance(value, str)}


def partner_token(world: World, person: str, *, client_id: str, callback: str) -> str:
    """The ID token oidc-provider gives an application."""
    verifier = secrets.token_urlsafe(48)
    challenge = urlsafe_b64encode(sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    query = {
        "response_type": "code",
        "client_id": client_id,
        "redirect_uri": callback,
        "scope": "openid profile groups",
        "code_challenge": challenge,
        "code_challenge_method": "S256",
        "nonce": secrets.token_urlsafe(8),
    }
    web = WebPerson((callback,))
    with web.http:
        seen = web.open(f"{world.partner.issuer}/auth?{urlencode(query)}")
        seen = web.submit(seen, username=person, password=f"{person}-password")
        answer = web.submit(seen).answer
    form = {
        "grant_type": "authorization_code",
        "code": answer["code"],
        "redirect_uri": callback,
        "code_verifier": verifier,
    }
    answered = httpx2.post(
        f"{world.partner.issuer}/token",
        data=form,
        auth=(client_id, oidc_provider.CLIENT_SECRET),
        trust_env=False,
    )
    return str(answered.raise_for_status().json()["id_token"])


def link_in(event: dict[str, Any]) -> str:
    """The consent link of the audit."""
    return str(event["detail"].split()[-1])


def agree_at_keycloak(world: World, link: str, person: str) -> Page:
    """The person follows the link, logs in at Keycloak, reads and allows; the last page."""
    browser = Browser(stop_at=CALLBACK)
    try:
        page = to_login(browser, browser.open(link))
        assert isinstance(page, Page)
        assert page.url.startswith(world.people.keycloak.base_url)
        consent = browser.submit(page, {"username": person, "password": PASSWORDS[person]})
        assert isinstance(consent, Page)
        assert f"{PORTAL} (keycloak)" in consent.text
        done = browser.submit(consent, {}, ("answer", "allow"))
    finally:
        browser.close()
    assert isinstance(done, Page)
    return done


def works(agent: TestAgent, tool: str = "list_hours", **arguments: object) -> bool:
    answer = agent.call("crm", tool, arguments)
    if answer.status_code == httpx2.codes.UNAUTHORIZED:
        return False
    assert answer.status_code == httpx2.codes.OK, answer.text
    return not answer.json()["result"].get("isError", False)


@pytest.mark.requirement("blend-consent")
@pytest.mark.requirement("C34")
def test_keycloaks_id_token_works_once_the_person_consented_at_the_audits_link(
    world: World,
) -> None:
    agent = world.agent()
    id_token = keycloak_tokens(world, "alice")["id_token"]
    event = world.refused(agent, id_token, "blend.no_consent")
    assert event["user_name"] == "Alice Archer"
    done = agree_at_keycloak(world, link_in(event), "alice")
    assert "Your consent is kept" in done.text

    witness = Witness(world.stack)
    claims = world.claims(agent, id_token)
    assert claims["sub"].startswith("usr_")
    assert claims["act"]["agent"] == "support-bot"
    assert claims["exp"] <= part(id_token, 1)["exp"]
    assert sorted(claims["uctx"]["groups"]) == ["keycloak/staff", "keycloak/support"]
    assert works(agent, "get_account", id=17)
    issued = witness.event("token.exchanged", agent="support-bot")
    assert issued["user"] == claims["sub"]
    assert f"for its client {PORTAL}" in issued["detail"]
    called = witness.event("call.finished", tool="get_account")
    assert (called["user"], called["agent"]) == (claims["sub"], "support-bot")


@pytest.mark.requirement("attack-6")
@pytest.mark.requirement("attack-16")
def test_keycloaks_other_tokens_and_other_agents_get_nothing(world: World) -> None:
    agent = world.agent()
    tokens = keycloak_tokens(world, "alice")
    elsewhere = keycloak_tokens(world, "alice", OTHER_PORTAL)
    world.refused(agent, elsewhere["id_token"], "person_token.audience")
    # Its access token has the application itself among its audiences, as an ID token has.
    assert PORTAL in part(tokens["access_token"], 1)["aud"]
    world.refused(agent, tokens["access_token"], "person_token.claim")
    world.refused(agent, tokens["refresh_token"], "person_token.algorithm")
    refresh = "urn:ietf:params:oauth:token-type:refresh_token"
    world.refused(agent, tokens["refresh_token"], "blend.type", refresh)
    world.refused(agent, tokens["access_token"], "blend.type", TOKEN_TYPE_ACCESS_TOKEN)
    world.refused(world.agent("other-bot"), tokens["id_token"], "blend.no_consent")


def test_mandate_takes_listed_access_tokens_and_is_recorded(world: World) -> None:
    agent = world.agent("hasty-bot")
    witness = Witness(world.stack)
    tokens = keycloak_tokens(world, "bob")
    claims = world.claims(agent, tokens["access_token"], TOKEN_TYPE_ACCESS_TOKEN)
    assert "gid" not in claims
    used = witness.event("mandate.used", object_ref="Agent/hasty-bot")
    assert (used["user"], used["token_id"]) == (claims["sub"], claims["jti"])
    assert works(agent)
    elsewhere = keycloak_tokens(world, "bob", OTHER_PORTAL)["access_token"]
    world.refused(agent, elsewhere, "person_token.party", TOKEN_TYPE_ACCESS_TOKEN)
    world.refused(agent, tokens["id_token"], "person_token.claim", TOKEN_TYPE_ACCESS_TOKEN)
    time.sleep(max(0.0, part(tokens["id_token"], 1)["iat"] + HASTY_SECONDS + 2 - time.time()))  # noqa: TID251 - a real provider has real time
    world.refused(agent, tokens["id_token"], "person_token.age")


@pytest.mark.requirement("attack-26")
def test_command_takes_the_token_from_standard_input_and_prints_the_blended_one(
    world: World,
) -> None:
    own = [
        *("--attestation-socket", str(world.stack.attestation_socket)),
        *("--key-file", str(world.stack.directory / "cli-bot.key")),
        *("--resource", world.stack.endpoint("crm"), "--subject-token-file", "-"),
    ]
    command = [sys.executable, str(world.helpers["cli-bot"]), "agent", "token", *own]

    def run(token: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603 - our own command
            command,
            input=token,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env=world.stack.child_environment(),
        )

    done = run(keycloak_tokens(world, "bob")["id_token"])
    assert done.returncode == 0, done.stderr
    assert part(done.stdout.strip(), 1)["act"]["agent"] == "cli-bot"
    elsewhere = keycloak_tokens(world, "bob", OTHER_PORTAL)["id_token"]
    refused = run(elsewhere)
    assert refused.returncode == 1
    assert ONE_SENTENCE in refused.stderr
    assert elsewhere not in refused.stderr + refused.stdout


@pytest.mark.requirement("trap-person-change")
def test_end_of_the_session_at_keycloak_ends_what_came_of_its_token(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = world.agent("hasty-bot")
    id_token = keycloak_tokens(world, "bob")["id_token"]
    claims = world.claims(agent, id_token)
    assert claims["sid"].startswith("ses_")
    assert works(agent)
    world.realm.end_session(str(part(id_token, 1)["sid"]))
    ended = time.monotonic()
    while works(agent):
        assert time.monotonic() - ended <= POLL_SECONDS * 2
        time.sleep(0.05)
    took = time.monotonic() - ended
    tell(capsys, f"session ended at Keycloak: the calls for its token stopped after {took:.2f} s")
    assert took <= POLL_SECONDS + 1
    answer = world.ask(agent, id_token)
    assert answer.status_code == httpx2.codes.BAD_REQUEST


@pytest.mark.requirement("blend-consent")
@pytest.mark.requirement("attack-6")
def test_oidc_providers_id_token_works_with_a_consent_and_others_do_not(world: World) -> None:
    agent = world.agent()
    listed = {"client_id": oidc_provider.OTHER_CLIENT_ID, "callback": oidc_provider.OTHER_CALLBACK}
    ours = f"{world.stack.issuer}/oauth/callback/partner"
    token = partner_token(world, "carol", **listed)
    event = world.refused(agent, token, "blend.no_consent")
    person = WebPerson((CALLBACK,))
    with person.http:
        seen = person.open(person.open(link_in(event)).link("Partner company"))
        seen = person.submit(seen, username="carol", password="carol-password")
        consent = person.submit(seen)
        assert "other-app (partner)" in consent.html
        assert "Your consent is kept" in person.submit(consent, answer="allow").html
    claims = world.claims(agent, token)
    assert claims["uctx"]["groups"] == ["partner/partners", "partner/staff"]
    assert works(agent, "get_account", id=17)

    other = partner_token(world, "carol", client_id=oidc_provider.CLIENT_ID, callback=ours)
    world.refused(agent, other, "person_token.audience")
    world.refused(world.agent("other-bot"), token, "blend.no_consent")
    world.refused(agent, partner_token(world, "dave", **listed), "blend.not_in_group")
    hasty = world.agent("hasty-bot")
    world.refused(hasty, token, "blend.not_listed")
