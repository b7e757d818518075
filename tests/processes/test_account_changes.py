"""What an operator changes about a local account reaches the person and their agents at once."""

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from compose.demo.browser import Browser, RefusedError, log_in_and_allow
from compose.demo.stack import Stack
from tests.operators import typed
from tests.stack import TestAgent, admin
from tests.witness import Witness

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]

TOOLS = ["get_account", "list_hours"]
OUT_OF_DATE = "needs_step_up"  # 401: the agent must come back with a newer token
NEW_PASSWORD = "velvet-harbour-tunnel-36"
SUPPORT, STAFF = ("--group", "support"), ("--group", "staff")


@dataclass
class Gina:
    """A person of the group staff in her browser, with an agent that acts for her."""

    stack: Stack
    agent: TestAgent
    browser: Browser
    name: str = field(default_factory=lambda: f"gina-{secrets.token_hex(3)}")
    password: str = "mosaic-thimble-orchard-19"
    refresh_token: str = ""

    def log_in(self) -> None:
        """By her browser, with her password if it asks; the agent gets its tokens."""
        url, pending = self.agent.authorization_url(
            "crm", TOOLS, scope="mcp:tools offline_access", prompt="consent"
        )
        redirect, _ = log_in_and_allow(self.browser, url, self.name, self.password)
        code = parse_qs(urlsplit(redirect).query)["code"][0]
        self.take(self.agent.token_request(self.agent.redemption(pending | {"code": code})))

    def refresh(self) -> httpx2.Response:
        form = {"grant_type": "refresh_token", "refresh_token": self.refresh_token}
        return self.agent.token_request(form)

    def take(self, answer: httpx2.Response) -> None:
        assert answer.status_code == httpx2.codes.OK, answer.text
        self.agent.tokens["crm"] = answer.json()["access_token"]
        self.refresh_token = answer.json()["refresh_token"]

    def call(self) -> str:
        """What comes of a call that only the group support may make."""
        answer = self.agent.call("crm", "get_account", {"id": 17})
        if answer.status_code == httpx2.codes.UNAUTHORIZED:
            return str(answer.json()["error"]["data"]["category"])
        assert answer.status_code == httpx2.codes.OK, answer.text
        return "denied" if answer.json()["result"].get("isError") else "served"

    def changed(self, command: str, *options: str, stdin: str = "") -> str:
        """The operator changes her account; wait until the second is over that refuses all."""
        done = typed(self.stack, "account", command, self.name, *options, stdin=stdin, socket=True)
        with admin(self.stack) as api:
            epochs = [each["not_before"] for each in api.call("GET", "/blocks")["blocks"]]
        while int(time.time()) <= max(epochs):  # noqa: TID251 - real processes have real time
            time.sleep(0.02)
        return done.stdout + done.stderr


@pytest.fixture
def gina(stack: Stack) -> Iterator[Gina]:
    agent = TestAgent(stack)
    browser = agent.browser()
    gina = Gina(stack, agent, browser)
    body: dict[str, Any] = {"identity_provider": "local", "username": gina.name}
    with admin(stack) as api:
        api.call("POST", "/accounts", json=body | {"password": gina.password, "groups": ["staff"]})
    gina.log_in()
    yield gina
    browser.close()


def assert_no_login(gina: Gina, says: str) -> None:
    witness = Witness(gina.stack)
    with pytest.raises(RefusedError, match=r"403 .*/oauth/login"):
        gina.log_in()
    witness.event("login.failed", says=says)


@pytest.mark.requirement("admin-account-changes")
def test_changed_groups_count_from_the_next_call_on(gina: Gina) -> None:
    assert gina.call() == "denied"
    witness = Witness(gina.stack)

    gina.changed("set-groups", *STAFF, *SUPPORT)
    assert gina.call() == OUT_OF_DATE
    gina.take(gina.refresh())
    assert gina.call() == "served"

    gina.changed("set-groups", *STAFF)
    assert gina.call() == OUT_OF_DATE
    gina.take(gina.refresh())
    assert gina.call() == "denied"
    event = witness.event("account.changed", user_name=gina.name, says="account.groups")
    assert event["detail"] == "groups: staff, support"


@pytest.mark.requirement("admin-account-changes")
def test_disabled_account_ends_calls_refresh_and_login(gina: Gina) -> None:
    gina.changed("disable")

    assert gina.call() == OUT_OF_DATE
    refused = gina.refresh()
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")
    assert_no_login(gina, "the account is disabled")

    gina.changed("enable")
    assert gina.call() == OUT_OF_DATE  # nothing of before comes back
    assert gina.refresh().json()["error"] == "invalid_grant"
    gina.log_in()
    assert gina.call() == "denied"


@pytest.mark.requirement("admin-account-changes")
def test_changed_password_ends_what_the_old_one_began(gina: Gina) -> None:
    said = gina.changed("set-password", stdin=f"{NEW_PASSWORD}\n")

    assert NEW_PASSWORD not in said
    assert gina.call() == OUT_OF_DATE
    assert gina.refresh().json()["error"] == "invalid_grant"
    assert_no_login(gina, "wrong password")
    gina.password = NEW_PASSWORD
    gina.log_in()
    assert gina.call() == "denied"
    database = gina.stack.directory / "data" / "countersign.db"
    assert NEW_PASSWORD.encode() not in database.read_bytes()
