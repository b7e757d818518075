"""Two authorization servers on one database are one server: what is used is used in both.

The second listens on another port, with the same issuer, database and keys. Twenty parallel uses
of one thing, alternating between both: exactly one success. On SQLite and on PostgreSQL.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
import pytest

from compose.demo.browser import Browser, Form, Page, log_in_and_allow
from compose.demo.stack import COUNTERSIGN, Stack
from countersign.admin_client import AdminClient
from tests.databases import POSTGRESQL
from tests.gateways import DIGEST, TestGateway, decision, now
from tests.stack import (
    CALLBACK,
    PASSWORDS,
    TestAgent,
    admin,
    demo_objects,
    held_port,
    in_parallel,
    new_key,
    prepare,
    running_stack,
    tell,
)
from tests.witness import Witness
from token_exchange.token_types import (
    CLIENT_ASSERTION_JWT_BEARER,
    GRANT_CLIENT_CREDENTIALS,
    GRANT_TOKEN_EXCHANGE,
    TOKEN_TYPE_ACCESS_TOKEN,
)

pytestmark = pytest.mark.processes

TIMES: Final = 20
LIMIT_MS: Final = 1000


@dataclass(frozen=True)
class Pair:
    """The stack's own authorization server, and the second one's address and admin socket."""

    stack: Stack
    second: str
    second_run: Any

    @property
    def both(self) -> tuple[str, str]:
        return self.stack.issuer, self.second

    def alternating(self, send: Callable[[str, int], httpx2.Response]) -> list[httpx2.Response]:
        """`send(address, number)` twenty times at once, ten at each."""
        numbers = iter(range(TIMES))
        return in_parallel(TIMES, lambda: send(self.both[(n := next(numbers)) % 2], n))


@pytest.fixture(scope="module", params=["sqlite", POSTGRESQL])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    with contextlib.ExitStack() as opened:
        environment = {}
        if request.param == "postgresql":
            server = request.getfixturevalue("postgresql_server")
            environment["COUNTERSIGN_DATABASE_URL"] = opened.enter_context(server.database())
        directory = tmp_path_factory.mktemp("stack")
        stack = opened.enter_context(
            running_stack(directory, environment=environment, prepared=False)
        )
        objects = demo_objects(stack)
        for each in objects:
            if (each["kind"], each["name"]) == ("CredentialProvider", "crm-token"):
                each["spec"]["binding"] = "call"
        prepare(stack, objects)
        with contextlib.ExitStack() as holding:
            port = held_port(holding)
        run = stack.directory / "run2"
        process = stack.start(
            "second-authz-server",
            [*COUNTERSIGN, "authz-server"],
            COUNTERSIGN_LISTEN_PORT=str(port),
            COUNTERSIGN_RUN_DIR=str(run),
        )
        address = f"http://127.0.0.1:{port}"
        stack.await_url(f"{address}/healthz", process)
        yield Pair(stack, address, run)


@pytest.fixture(scope="module")
def gateway(pair: Pair) -> TestGateway:
    return TestGateway.running(pair.stack)


@pytest.fixture
def agent(pair: Pair) -> TestAgent:
    return TestAgent(pair.stack)


def codes(agent: TestAgent, count: int) -> list[dict[str, str]]:
    """Codes for one agent, from one browser of one person: the consent is remembered."""
    browser, found = Browser(stop_at=CALLBACK), []
    try:
        for _ in range(count):
            url, pending = agent.authorization_url("crm", ["get_account"])
            redirect, _ = log_in_and_allow(browser, url, "alice", PASSWORDS["alice"])
            found.append(pending | {"code": parse_qs(urlsplit(redirect).query)["code"][0]})
    finally:
        browser.close()
    return found


def one_success(
    answers: list[httpx2.Response], status: int, *errors: str
) -> tuple[httpx2.Response, list[httpx2.Response]]:
    """Exactly one is granted; all others are refused with one of these errors."""
    granted = [answer for answer in answers if answer.status_code == 200]
    others = [answer for answer in answers if answer.status_code != 200]
    assert len(granted) == 1, [answer.text[:200] for answer in answers]
    for answer in others:
        assert (answer.status_code, answer.json()["error"] in errors) == (status, True), answer.text
    return granted[0], others


def test_two_servers_say_the_same_of_themselves(pair: Pair) -> None:
    for path in (
        "/oauth/jwks",
        "/.well-known/openid-configuration",
        "/.well-known/oauth-authorization-server",
    ):
        first, second = (pair.stack.http.get(f"{server}{path}") for server in pair.both)
        assert first.status_code == 200
        assert first.content == second.content, path


def test_code_redeemed_twenty_times_at_both_succeeds_once_and_is_revoked(
    pair: Pair, agent: TestAgent
) -> None:
    (pending,) = codes(agent, 1)
    assertions = [agent.attestation() for _ in range(TIMES)]
    proofs = [agent.key.proof("POST", f"{pair.stack.issuer}/oauth/token") for _ in range(TIMES)]
    form = agent.redemption(pending)
    witness = Witness(pair.stack)

    answers = pair.alternating(
        lambda server, number: agent.token_request(
            form, issuer=server, assertion=assertions[number], proof=proofs[number]
        )
    )

    granted, _ = one_success(answers, 400, "invalid_grant")
    agent.tokens["crm"] = granted.json()["access_token"]
    witness.event("revocation.blocked", says="code.replayed")
    assert agent.call("crm", "get_account", {"id": 17}).status_code == 401


def test_code_redeemed_once_at_the_other_server_stays_good(pair: Pair, agent: TestAgent) -> None:
    (pending,) = codes(agent, 1)
    answer = agent.token_request(agent.redemption(pending), issuer=pair.second)
    assert answer.status_code == 200, answer.text
    agent.tokens["crm"] = answer.json()["access_token"]
    assert "Ada Lovelace" in agent.call("crm", "get_account", {"id": 17}).text


def test_attestation_and_then_proof_used_twenty_times_at_both_succeed_once_each(
    pair: Pair, agent: TestAgent
) -> None:
    """Each time with a code of its own; what was refused for its attestation kept its code."""
    forms = [agent.redemption(pending) for pending in codes(agent, TIMES + 1)]
    assertion = agent.attestation()
    redeemed = []

    def with_one_attestation(server: str, number: int) -> httpx2.Response:
        answer = agent.token_request(forms[number], issuer=server, assertion=assertion)
        redeemed.extend([number] if answer.status_code == 200 else [])
        return answer

    one_success(pair.alternating(with_one_attestation), 401, "invalid_client")
    del forms[redeemed[0]]
    assertions = [agent.attestation() for _ in range(TIMES)]
    proof = agent.key.proof("POST", f"{pair.stack.issuer}/oauth/token")
    answers = pair.alternating(
        lambda server, number: agent.token_request(
            forms[number], issuer=server, assertion=assertions[number], proof=proof
        )
    )
    one_success(answers, 400, "invalid_dpop_proof")


def control_request(
    gateway: TestGateway, server: str, assertion: str, proof: str
) -> httpx2.Response:
    form = {
        "grant_type": GRANT_CLIENT_CREDENTIALS,
        "resource": f"{gateway.stack.issuer}/control/v1",
        "client_assertion_type": CLIENT_ASSERTION_JWT_BEARER,
        "client_assertion": assertion,
    }
    headers = {"dpop": proof}
    return gateway.stack.http.post(f"{server}/oauth/token", data=form, headers=headers)


def proof_of(gateway: TestGateway) -> str:
    url = f"{gateway.stack.issuer}/oauth/token"
    return gateway.key.dpop_proof(method="POST", uri=url, now=now())


def test_client_assertion_used_twenty_times_at_both_succeeds_once(
    pair: Pair, gateway: TestGateway
) -> None:
    assertion = gateway.assertion()
    answers = pair.alternating(
        lambda server, _: control_request(gateway, server, assertion, proof_of(gateway))
    )
    one_success(answers, 401, "invalid_client")


def test_proof_of_a_gateway_used_twenty_times_at_both_succeeds_once(
    pair: Pair, gateway: TestGateway
) -> None:
    proof = proof_of(gateway)
    answers = pair.alternating(
        lambda server, _: control_request(gateway, server, gateway.assertion(), proof)
    )
    one_success(answers, 400, "invalid_dpop_proof")


def exchange(
    gateway: TestGateway, server: str, subject_token: str, decision_id: str
) -> httpx2.Response:
    detail = {
        "type": "mcp_tool_call",
        "server": "crm",
        "tool": "get_account",
        "args_sha256": DIGEST,
        "decision": decision_id,
    }
    form = {
        "grant_type": GRANT_TOKEN_EXCHANGE,
        "subject_token": subject_token,
        "subject_token_type": TOKEN_TYPE_ACCESS_TOKEN,
        "resource": gateway.stack.crm_url,
        "requested_token_type": TOKEN_TYPE_ACCESS_TOKEN,
        "authorization_details": json.dumps([detail]),
        "client_assertion_type": CLIENT_ASSERTION_JWT_BEARER,
        "client_assertion": gateway.assertion(),
    }
    return gateway.stack.http.post(f"{server}/oauth/token", data=form)


def test_decision_used_twenty_times_at_both_succeeds_once(
    pair: Pair, agent: TestAgent, gateway: TestGateway
) -> None:
    token, one = agent.token_for("alice", "crm", ["get_account"]), decision()
    answers = pair.alternating(lambda server, _: exchange(gateway, server, token, one))
    one_success(answers, 400, "invalid_authorization_details")
    for server in pair.both:  # and the next decision is good at either
        assert exchange(gateway, server, token, decision()).status_code == 200


# --- a person's browser -------------------------------------------------------------------------


class Roaming:
    """A browser whose every next request goes to the other server, as behind a balancer."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._at = 0
        self.http = httpx2.Client(timeout=20, trust_env=False)

    def elsewhere(self, url: str) -> str:
        self._at += 1
        return url.replace(self._pair.stack.issuer, self._pair.both[self._at % 2])

    def get(self, url: str) -> Page | str:
        return self.follow(self.http.get(self.elsewhere(url)))

    def post(self, form: Form, values: dict[str, str]) -> Page | str:
        return self.follow(self.http.post(self.elsewhere(form.action), data=form.fields | values))

    def follow(self, answer: httpx2.Response) -> Page | str:
        while answer.is_redirect:
            target = answer.headers["location"]
            if target.startswith(CALLBACK):
                return str(target)
            answer = self.http.get(self.elsewhere(target))
        return Browser(CALLBACK)._follow(answer)


def form_of(page: Page | str, field: str) -> Form:
    assert isinstance(page, Page), page
    assert page.status == 200, page.text
    assert field in page.forms[0].fields or field in dict(page.forms[0].buttons), page.forms
    return page.forms[0]


def test_login_and_consent_begun_at_one_server_go_on_at_the_other(
    pair: Pair, agent: TestAgent
) -> None:
    person = Roaming(pair)
    url, _ = agent.authorization_url("crm", ["get_account"], prompt="consent")
    login = form_of(person.get(url), "password")
    consent = person.post(login, {"username": "bob", "password": PASSWORDS["bob"]})
    answer = person.post(form_of(consent, "answer"), {"answer": "allow"})
    assert isinstance(answer, str), answer
    assert "code=" in answer
    person.http.close()


def test_consent_given_twenty_times_at_both_counts_once(pair: Pair, agent: TestAgent) -> None:
    person = Roaming(pair)
    url, pending = agent.authorization_url("crm", ["get_account"], prompt="consent")
    login = form_of(person.get(url), "password")
    consent = person.post(login, {"username": "bob", "password": PASSWORDS["bob"]})
    form = form_of(consent, "answer")
    cookies = dict(person.http.cookies.items())
    body = urlencode(form.fields | {"answer": "allow"})
    headers = {
        "content-type": "application/x-www-form-urlencoded",
        "cookie": "; ".join(f"{name}={value}" for name, value in cookies.items()),
    }

    def allow(server: str, _: int) -> httpx2.Response:
        with httpx2.Client(timeout=20, trust_env=False) as http:
            return http.post(f"{server}/oauth/consent", content=body, headers=headers)

    answers = pair.alternating(allow)

    codes = [answer.headers["location"] for answer in answers if answer.status_code == 303]
    assert len(codes) == 1, [(answer.status_code, answer.headers) for answer in answers]
    assert codes[0].startswith(f"{CALLBACK}?code=")
    assert {answer.status_code for answer in answers} == {303, 400}
    code = parse_qs(urlsplit(codes[0]).query)["code"][0]
    answer = agent.token_request(agent.redemption(pending | {"code": code}))
    assert answer.status_code == 200, answer.text
    person.http.close()


def test_password_tried_at_both_servers_locks_the_account_in_both(
    pair: Pair, agent: TestAgent
) -> None:
    """Guessing is counted once, not once for each server."""
    with admin(pair.stack) as api:
        account = {
            "identity_provider": "local",
            "username": "carol",
            "password": "a-long-pass-phrase-of-hers-77",
            "groups": ["staff"],
        }
        api.call("POST", "/accounts", json=account)
    seen: list[int] = []
    # The first lock is two seconds, which a slow machine may need for the next try; the ones after
    # it are longer. Counted apart, no server would have had its fifth of eight.
    for number in range(8):
        person = Roaming(pair)
        person._at = number
        url, _ = agent.authorization_url("crm", ["get_account"])
        login = form_of(person.get(url), "password")
        page = person.post(login, {"username": "carol", "password": "wrong-wrong-wrong"})
        assert isinstance(page, Page)
        seen.append(page.status)
        person.http.close()
        if page.status != HTTPStatus.FORBIDDEN:
            break
    assert seen[:5] == [403] * 5
    assert seen[-1] == HTTPStatus.TOO_MANY_REQUESTS


# --- a kill --------------------------------------------------------------------------------------


def kill(api: AdminClient, kind: str, name: str) -> float:
    """Block it; when that was asked."""
    asked = time.monotonic()
    api.call("POST", "/blocks", json={"kind": kind, "id": name, "reason": "test"})
    return asked


@pytest.mark.requirement("attack-28")
def test_kill_at_the_second_is_refused_by_the_first_within_a_second(
    pair: Pair, agent: TestAgent, gateway: TestGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    stack = pair.stack
    token = agent.token_for("alice", "crm", ["get_account"])
    second = AdminClient(stack.issuer, timeout_seconds=10, socket=pair.second_run / "admin.sock")
    refused_by_authority = refused_by_gateway = 0.0
    with second as api:
        asked = kill(api, "agent", "support-bot")
        try:
            while not (refused_by_authority and refused_by_gateway):
                assert time.monotonic() - asked < 10, "the kill never arrived"
                answer = exchange(gateway, stack.issuer, token, decision())
                if answer.status_code != 200 and not refused_by_authority:
                    refused_by_authority = (time.monotonic() - asked) * 1000
                answer = agent.call("crm", "get_account", {"id": 17})
                if answer.status_code == 401 and not refused_by_gateway:
                    refused_by_gateway = (time.monotonic() - asked) * 1000
        finally:
            api.call("DELETE", "/blocks/agent/support-bot", query={"reason": "test"})
    tell(
        capsys,
        f"kill at the second server: refused by the first after {refused_by_authority:.0f} ms,"
        f" by its gateway after {refused_by_gateway:.0f} ms",
    )
    assert refused_by_authority < LIMIT_MS
    assert refused_by_gateway < LIMIT_MS
    # Restored, nothing from before revives, at neither of them.
    for server in pair.both:
        assert exchange(gateway, server, token, decision()).status_code == 400


@pytest.mark.requirement("attack-28")
def test_kill_at_the_first_is_refused_by_the_second_within_a_second(
    pair: Pair, gateway: TestGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    other = TestAgent(pair.stack, key=new_key())
    deadline = time.monotonic() + 10  # an epoch is rounded up: nothing is issued before it is over
    while True:
        try:
            token = other.token_for("alice", "crm", ["get_account"])
            break
        except Exception:  # noqa: BLE001 - refused for a second, in several ways
            assert time.monotonic() < deadline
            time.sleep(0.2)
    assert exchange(gateway, pair.second, token, decision()).status_code == 200
    with admin(pair.stack) as api:
        asked = kill(api, "agent", "support-bot")
        try:
            while exchange(gateway, pair.second, token, decision()).status_code == 200:
                assert time.monotonic() - asked < 10, "the kill never arrived"
            took = (time.monotonic() - asked) * 1000
        finally:
            api.call("DELETE", "/blocks/agent/support-bot", query={"reason": "test"})
    tell(capsys, f"kill at the first server: refused by the second after {took:.0f} ms")
    assert took < LIMIT_MS
