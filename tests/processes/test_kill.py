"""`countersign kill` cuts off exactly its own, at every gateway, now and in open streams."""

import contextlib
import json
import re
import time
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from compose.demo.browser import Browser, Page, RefusedError, log_in_and_allow
from tests.deployment import Deployment, running_deployment
from tests.operators import typed
from tests.stack import CALLBACK, PASSWORDS, TestAgent, admin, await_event
from tests.streams import OpenStream

pytestmark = pytest.mark.processes

TOOLS = ["list_hours", "watch_account"]
LONG_SECONDS = 120
CONFIRMED = re.compile(r"gateway\.(\w+)\.[0-9a-f]+: refuses since (-?\d+) ms after the action")


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with running_deployment(tmp_path_factory.mktemp("deployment")) as running:
        yield running


@dataclass(frozen=True)
class Held:
    """One token in an agent's hands, for one server."""

    agent: TestAgent
    server: str
    token: str

    @property
    def claims(self) -> dict[str, Any]:
        payload = self.token.split(".")[1]
        claims = urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
        return dict(json.loads(claims))

    @property
    def lives_long(self) -> bool:
        """Longer than any test lasts."""
        left = self.claims["exp"] - time.time()  # noqa: TID251 - real processes have real time
        return bool(left > LONG_SECONDS)

    def call(self) -> httpx2.Response:
        tool, arguments = ("search", {"text": "Q3"}) if self.server == "notes" else (TOOLS[0], {})
        return self.agent.call(self.server, tool, arguments, token=self.token)

    def works(self) -> bool:
        answer = self.call()
        if answer.status_code == httpx2.codes.UNAUTHORIZED:
            assert answer.json()["error"]["data"]["category"] == "revoked", answer.text
            return False
        assert answer.status_code == httpx2.codes.OK, answer.text
        assert not answer.json()["result"].get("isError"), answer.text
        return True


def allowed(agent: TestAgent, browser: Browser, person: str, server: str) -> Held:
    """A token by this browser's login, whether or not it is logged in already."""
    tools = ["search"] if server == "notes" else TOOLS
    url, pending = agent.authorization_url(server, tools)
    redirect, _ = log_in_and_allow(browser, url, person, PASSWORDS[person])
    code = parse_qs(urlsplit(redirect).query)["code"][0]
    answer = agent.token_request(agent.redemption(pending | {"code": code}))
    assert answer.status_code == httpx2.codes.OK, answer.text
    return Held(agent, server, answer.json()["access_token"])


def kill(deployment: Deployment, target: str) -> dict[str, Any]:
    """What the command says, as JSON. It ends with 0 only when every gateway confirmed."""
    reason = ("--reason", "a test")
    done = typed(deployment.first, "-o", "json", "kill", target, *reason, socket=True)
    return dict(json.loads(done.stdout))


def restore(deployment: Deployment, target: str) -> None:
    """Restore, and wait until the second is over in which nothing is issued."""
    typed(deployment.first, "restore", target, socket=True)
    with admin(deployment.first) as api:
        epochs = [each["not_before"] for each in api.call("GET", "/blocks")["blocks"]]
    while int(time.time()) <= max(epochs):  # noqa: TID251 - real processes have real time
        time.sleep(0.02)


@pytest.mark.requirement("attack-28")
def test_kill_of_an_agent_refuses_the_next_call_and_ends_the_streams_at_both_gateways(
    deployment: Deployment,
) -> None:
    agents = [deployment.agent(gateway) for gateway in deployment.gateways]
    for agent in agents:
        agent.token_for("alice", "crm", TOOLS)
        assert agent.call("crm", "list_hours").status_code == httpx2.codes.OK
    code = agents[0].code("alice", "crm", TOOLS)
    streams = [OpenStream(agent) for agent in agents]
    bystander = deployment.agent(deployment.first, "other-bot")
    bystander.token_for("bob", "crm", TOOLS)
    untouched = OpenStream(bystander)

    reason = ("--reason", "stolen laptop")
    done = deployment.first.command("kill", "agent/support-bot", *reason, socket=True)

    for agent in agents:
        refused = agent.call("crm", "list_hours")
        assert refused.status_code == httpx2.codes.UNAUTHORIZED
        assert refused.json()["error"]["data"] == {"category": "revoked", "retryable": False}
        assert 'error="invalid_token"' in refused.headers["www-authenticate"]
    for stream in streams:
        assert stream.last(5)["error"]["data"]["category"] == "revoked"
    confirmed = dict(CONFIRMED.findall(done.stdout))
    assert confirmed.keys() == {"main", "second"}, done.stdout
    assert all(int(took) < 1000 for took in confirmed.values()), done.stdout
    assert bystander.call("crm", "list_hours").status_code == httpx2.codes.OK
    assert not untouched.is_over

    event = await_event(deployment.first, type="revocation.blocked", object_ref="agent/support-bot")
    assert event["reasons"] == ["stolen laptop"]
    with pytest.raises(RefusedError, match="blocked"):
        agents[0].token_for("alice", "crm", TOOLS)

    restore(deployment, "agent/support-bot")
    for agent in agents:  # restore revives nothing from before
        assert agent.call("crm", "list_hours").status_code == httpx2.codes.UNAUTHORIZED
    old_code = agents[0].token_request(agents[0].redemption(code))
    assert old_code.status_code == httpx2.codes.BAD_REQUEST
    assert old_code.json()["error"] == "invalid_grant"
    for agent in agents:  # whoever asks again is served again
        agent.token_for("alice", "crm", TOOLS)
        assert agent.call("crm", "list_hours").status_code == httpx2.codes.OK


@pytest.fixture(scope="module")
def browsers() -> Iterator[dict[str, Browser]]:
    """Alice's two, and Bob's."""
    with contextlib.ExitStack() as closing:
        yield {
            name: closing.enter_context(contextlib.closing(Browser(stop_at=CALLBACK)))
            for name in ("mine", "elsewhere", "bobs")
        }


@pytest.fixture(scope="module")
def kept() -> dict[str, Held]:
    return {}


@pytest.fixture
def held(
    deployment: Deployment, browsers: dict[str, Browser], kept: dict[str, Held]
) -> dict[str, Held]:
    """Six tokens that share some of person, session, consent, run and agent, and not others.

    Those that still work are used again: a login costs more than everything else here.
    """
    bot = deployment.agent(deployment.first)
    other = deployment.agent(deployment.first, "other-bot")
    for name, agent, browser, person, server in (
        ("first", bot, "mine", "alice", "crm"),
        ("same browser", bot, "mine", "alice", "crm"),
        ("other agent", other, "mine", "alice", "crm"),
        ("other browser", bot, "elsewhere", "alice", "crm"),
        ("other consent", bot, "elsewhere", "alice", "notes"),
        ("other person", bot, "bobs", "bob", "crm"),
    ):
        if name not in kept or not kept[name].lives_long or not kept[name].works():
            kept[name] = allowed(agent, browsers[browser], person, server)
    return kept


ALL = frozenset(
    ("first", "same browser", "other agent", "other browser", "other consent", "other person")
)


@pytest.mark.requirement("C57")
@pytest.mark.requirement("C58")
@pytest.mark.parametrize(
    ("kind", "claim", "refused"),
    [
        ("token", "jti", {"first"}),
        ("run", "inv", {"first"}),
        ("session", "sid", {"first"}),  # over http each request is a login of its own
        ("consent", "gid", {"first", "same browser", "other browser"}),
        ("user", "sub", ALL - {"other person"}),
        ("client", "client_id", ALL - {"other agent"}),
        ("agent", "support-bot", ALL - {"other agent"}),
        ("agent-class", "support-agents", ALL - {"other agent"}),
        ("agent-class", "other-agents", {"other agent"}),
    ],
)
def test_kill_of_one_kind_refuses_exactly_its_own(
    deployment: Deployment,
    held: dict[str, Held],
    kind: str,
    claim: str,
    refused: frozenset[str],
) -> None:
    assert {name for name, each in held.items() if each.works()} == ALL
    target = f"{kind}/{held['first'].claims.get(claim, claim)}"
    said = kill(deployment, target)
    try:
        assert {name for name, each in held.items() if not each.works()} == refused
        assert {ack["gateway"] for ack in said["gateways"]} == {"main", "second"}
    finally:
        restore(deployment, target)
    assert {name for name, each in held.items() if not each.works()} == refused


def test_kill_of_a_consent_asks_the_person_again(deployment: Deployment) -> None:
    bot = deployment.agent(deployment.first)
    browser = Browser(stop_at=CALLBACK)

    def asked() -> Page | None:
        url, _ = bot.authorization_url("crm", TOOLS)
        _, consent = log_in_and_allow(browser, url, "alice", PASSWORDS["alice"])
        return consent

    try:
        before = allowed(bot, browser, "alice", "crm")
        assert asked() is None, "a stored consent is not asked for again"
        kill(deployment, f"consent/{before.claims['gid']}")
        page = asked()
        assert page is not None
        assert "support-bot" in page.text
        assert asked() is None, "the new consent is stored"
    finally:
        browser.close()


def test_restore_of_what_is_not_blocked_is_refused(deployment: Deployment) -> None:
    done = deployment.first.command("restore", "agent/never-seen", socket=True, check=False)
    assert done.returncode != 0
    assert "Nothing is blocked under that name." in done.stdout + done.stderr
