"""Two people, one agent process, one key: nothing of the one ever serves the other."""

import sqlite3
from collections import Counter
from dataclasses import replace
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from compose.demo.browser import Browser, Page, log_in_and_allow
from compose.demo.stack import Stack
from tests.challenges import assert_challenged
from tests.forging import part
from tests.stack import PASSWORDS, TestAgent, admin, in_parallel
from tests.witness import Witness

pytestmark = pytest.mark.processes

TOOLS: Final = ["get_account", "list_hours"]
WORKERS: Final = 8
ROUNDS: Final = 25
SESSION_COOKIE: Final = "countersign_session"
ALLOW: Final = ("answer", "allow")


@pytest.fixture(scope="module")
def people(stack: Stack) -> dict[str, TestAgent]:
    """The same agent process with the same key, once with each person's token."""
    alice = TestAgent(stack)
    bob = replace(alice, tokens={})
    alice.token_for("alice", "crm", TOOLS)
    bob.token_for("bob", "crm", TOOLS)
    assert alice.key is bob.key
    return {"alice": alice, "bob": bob}


def subject_of(agent: TestAgent) -> str:
    return str(part(agent.tokens["crm"], 1)["sub"])


def seen_by_crm(answer: httpx2.Response) -> dict[str, Any]:
    """Whom crm says it saw."""
    assert answer.status_code == 200, answer.text
    result = answer.json()["result"]
    assert not result.get("isError"), result
    return dict(result["structuredContent"]["seen"])


# --- decisions and credentials -----------------------------------------------------------------


@pytest.mark.requirement("C27")
def test_persons_with_one_agent_and_the_same_arguments_get_decisions_of_their_own(
    stack: Stack, people: dict[str, TestAgent]
) -> None:
    witness = Witness(stack)
    answers = {
        name: agent.call("crm", "get_account", {"id": 17}).json()["result"]
        for name, agent in people.items()
    }
    assert not answers["alice"].get("isError")
    assert answers["bob"]["isError"]
    assert "Ada Lovelace" not in str(answers["bob"])
    outcomes = {"alice": "allowed", "bob": "denied"}
    for name, outcome in outcomes.items():
        event = witness.event("call.decided", user=subject_of(people[name]), tool="get_account")
        assert event["outcome"] == outcome
        assert event["presented_token_id"] == part(people[name].tokens["crm"], 1)["jti"]


@pytest.mark.requirement("C27")
def test_persons_interleaved_in_parallel_never_share_a_decision_or_a_credential(
    stack: Stack, people: dict[str, TestAgent]
) -> None:
    """Many calls with the same arguments, by one key, while caches are warm and cold."""
    witness = Witness(stack)
    turns = [("alice", "bob")[index % 2] for index in range(WORKERS)]
    starting = iter(turns)
    seen: dict[str, set[tuple[str, str]]] = {"alice": set(), "bob": set()}

    def work() -> list[str]:
        first = next(starting)
        wrong = []
        for turn in range(ROUNDS):
            name = first if turn % 3 else {"alice": "bob", "bob": "alice"}[first]
            agent = people[name]
            who = seen_by_crm(agent.call("crm", "list_hours"))
            seen[name].add((who["subject"], who["token_id"]))
            if who["name"] != name:
                wrong.append(f"crm saw {who['name']} for {name}")
            account = agent.call("crm", "get_account", {"id": 17}).json()["result"]
            if bool(account.get("isError")) is not (name == "bob"):
                wrong.append(f"{name} got the other's decision: {account}")
        return wrong

    wrong = [each for several in in_parallel(WORKERS, work) for each in several]
    assert wrong == []
    subjects = {name: {subject for subject, _ in pairs} for name, pairs in seen.items()}
    tokens = {name: {token for _, token in pairs} for name, pairs in seen.items()}
    assert len(subjects["alice"]) == len(subjects["bob"]) == 1
    assert subjects["alice"].isdisjoint(subjects["bob"])
    assert tokens["alice"].isdisjoint(tokens["bob"])
    _assert_audit_agrees(witness, people, tokens)
    _assert_crm_agrees(stack)


def _assert_audit_agrees(
    witness: Witness, people: dict[str, TestAgent], tokens: dict[str, set[str]]
) -> None:
    """Every decision is of the person whose token was presented; so is every credential."""
    person_of = {subject_of(agent): name for name, agent in people.items()}
    presented = {name: part(agent.tokens["crm"], 1)["jti"] for name, agent in people.items()}
    events = witness.settled()
    counted: Counter[tuple[str, str]] = Counter()
    for event in events:
        if event["type"] == "call.decided" and event["tool"] == "get_account":
            name = person_of[event["user"]]
            assert event["presented_token_id"] == presented[name]
            counted[name, event["outcome"]] += 1
        # A gateway that looks at tools has a token of its own.
        if event["type"] == "token.exchanged" and event["principal_kind"] != "gateway":
            name = person_of[event["user"]]
            assert event["presented_token_id"] == presented[name]
            other = {"alice": "bob", "bob": "alice"}[name]
            assert event["token_id"] not in tokens[other]
    assert set(counted) == {("alice", "allowed"), ("bob", "denied")}
    assert sum(counted.values()) == WORKERS * ROUNDS


def _assert_crm_agrees(stack: Stack) -> None:
    """By crm's own log no token was ever used for two people."""
    connection = sqlite3.connect(stack.directory / "crm.db")
    try:
        rows = connection.execute("SELECT DISTINCT token_id, subject FROM calls").fetchall()
    finally:
        connection.close()
    assert len({token for token, _ in rows}) == len(rows)


@pytest.mark.requirement("C27")
def test_persons_tools_they_did_not_both_consent_to_are_not_shared(
    stack: Stack, people: dict[str, TestAgent]
) -> None:
    alice = replace(people["alice"], tokens={})
    alice.token_for("alice", "crm", ["get_account", "refund"])
    small = {"id": 18, "amount": 1}
    assert not alice.call("crm", "refund", small).json()["result"].get("isError")
    witness = Witness(stack)
    refused = people["bob"].call("crm", "refund", small)
    assert refused.status_code == 403
    assert 'error="insufficient_scope"' in refused.headers["www-authenticate"]
    witness.event("call.refused", user=subject_of(people["bob"]), tool="refund")


# --- tokens and keys ---------------------------------------------------------------------------


@pytest.mark.requirement("attack-15")
def test_persons_tokens_of_two_agent_processes_work_with_their_own_key_only(
    stack: Stack,
) -> None:
    mine, theirs = TestAgent(stack), TestAgent(stack)
    mine.token_for("alice", "crm", TOOLS)
    theirs.token_for("bob", "crm", TOOLS)
    for holder, thief in ((mine, theirs), (theirs, mine)):
        token = holder.tokens["crm"]
        assert seen_by_crm(holder.call("crm", "list_hours"))["agent"] == "support-bot"
        witness = Witness(stack)
        answer = thief.call("crm", "list_hours", token=token)
        assert_challenged(answer, stack, "invalid_dpop_proof")
        event = witness.event("caller.refused", says="dpop.binding")
        assert event["user"] == part(token, 1)["sub"]


@pytest.mark.requirement("attack-15")
def test_persons_proof_for_the_one_token_does_not_serve_the_other(
    stack: Stack, people: dict[str, TestAgent]
) -> None:
    """One key signs for both: only `ath` tells the tokens apart."""
    url = stack.endpoint("crm")
    alice, bob = people["alice"], people["bob"]
    proof = bob.key.proof("POST", url, bob.tokens["crm"])
    headers = {"authorization": f"DPoP {alice.tokens['crm']}", "dpop": proof}
    answer = bob.call("crm", "get_account", {"id": 17}, headers=headers)
    assert_challenged(answer, stack, "invalid_dpop_proof")


# --- codes, sessions, consents -----------------------------------------------------------------


def code_in(redirect: Page | str) -> str:
    """The code of a redirect back to the agent."""
    assert isinstance(redirect, str), redirect
    return parse_qs(urlsplit(redirect).query)["code"][0]


@pytest.mark.requirement("attack-9")
def test_persons_code_of_the_one_does_not_serve_the_others_request(stack: Stack) -> None:
    agent = TestAgent(stack)
    alices, bobs = (agent.code(name, "crm", TOOLS) for name in ("alice", "bob"))
    swapped = {"alices": alices | {"code": bobs["code"]}, "bobs": bobs | {"code": alices["code"]}}
    for pending in swapped.values():
        witness = Witness(stack)
        answer = agent.token_request(agent.redemption(pending))
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant"), answer.text
        witness.event("token.refused", error_code="invalid_grant")
    # Neither was burnt, and each is its person's.
    subjects = set()
    for pending in (alices, bobs):
        answer = agent.token_request(agent.redemption(pending))
        assert answer.status_code == 200, answer.text
        subjects.add(part(answer.json()["access_token"], 1)["sub"])
    assert len(subjects) == 2


@pytest.mark.requirement("attack-9")
def test_persons_code_is_redeemed_by_the_key_it_was_asked_for_only(stack: Stack) -> None:
    asking, other = TestAgent(stack), TestAgent(stack)
    form = asking.redemption(asking.code("alice", "crm", TOOLS))
    witness = Witness(stack)
    answer = other.token_request(form)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_dpop_proof")
    witness.event("token.refused", says="code.dpop_jkt")
    assert asking.token_request(form).status_code == 200


def test_persons_session_of_the_one_does_not_answer_the_request_of_the_other(
    stack: Stack,
) -> None:
    """Both stand before their consent pages; Alice's session cookie lands in Bob's browser."""
    agent = TestAgent(stack)
    alice, bob = agent.browser(), agent.browser()
    try:
        at_consent(agent, alice, "alice")
        consent, pending = at_consent(agent, bob, "bob")
        bobs = session_cookie(bob)
        assert session_cookie(alice) != bobs
        plant(bob, session_cookie(alice))
        assert_must_log_in(bob.submit(consent, {}, ALLOW))
        plant(bob, bobs)
        subject = redeemed(agent, pending, bob.submit(consent, {}, ALLOW))
        again = agent.token_request(agent.redemption(agent.code("bob", "crm", TOOLS)))
        assert subject == part(again.json()["access_token"], 1)["sub"]
    finally:
        alice.close()
        bob.close()


def test_persons_consent_of_the_one_does_not_spare_the_other_the_question(stack: Stack) -> None:
    agent = TestAgent(stack)
    tools = ["list_hours", "watch_account"]
    newcomer = {"username": "dora", "password": "velvet-harbour-tunnel-36"}
    account = {"identity_provider": "local", "groups": ["staff"]} | newcomer
    with admin(stack) as api:
        api.call("POST", "/accounts", json=account)
    assert agent.code("alice", "crm", tools)["code"]
    for was_asked in (True, False):  # the twin: her own consent is enough the next time
        browser = agent.browser()
        try:
            url, _ = agent.authorization_url("crm", tools)
            redirect, consent = log_in_and_allow(browser, url, *newcomer.values())
            assert code_in(redirect)
            assert (consent is not None) is was_asked
            assert consent is None or "dora" in consent.text
        finally:
            browser.close()


@pytest.mark.requirement("attack-12")
def test_persons_request_opened_in_one_browser_cannot_be_answered_in_another(
    stack: Stack,
) -> None:
    agent = TestAgent(stack)
    alice, bob = agent.browser(), agent.browser()
    try:
        url, _ = agent.authorization_url("crm", TOOLS)
        opened = alice.open(url)
        assert isinstance(opened, Page)
        witness = Witness(stack)
        elsewhere = bob.open(opened.url)
        assert isinstance(elsewhere, Page)
        assert (elsewhere.status, elsewhere.forms) == (400, ())
        posted = bob.submit(opened, {"username": "bob", "password": PASSWORDS["bob"]})
        assert isinstance(posted, Page)
        assert posted.status == 400
        witness.event("login.failed", says="interaction.not_open")
        assert "countersign_session" not in cookies(bob)
        # The browser that opened it goes on.
        name = {"username": "alice", "password": PASSWORDS["alice"]}
        after = alice.submit(opened, name)
        assert isinstance(after, str) or "alice" in after.text
    finally:
        alice.close()
        bob.close()


@pytest.mark.requirement("attack-12")
def test_persons_consent_page_shown_to_the_one_cannot_be_answered_by_the_other(
    stack: Stack,
) -> None:
    """Two tabs: Alice's consent page is open, then Bob logs in in the same browser."""
    agent = TestAgent(stack)
    browser = agent.browser()
    try:
        shown, pending = at_consent(agent, browser, "alice")
        alices = session_cookie(browser)
        witness = Witness(stack)
        at_consent(agent, browser, "bob", prompt="login consent")
        assert_must_log_in(browser.submit(shown, {}, ALLOW))
        # Bob's login ended Alice's session, so her cookie opens nothing any more.
        plant(browser, alices)
        again = assert_must_log_in(browser.submit(shown, {}, ALLOW))
        # Alice, logged in again, is asked anew and may answer.
        asked = browser.submit(again, {"username": "alice", "password": PASSWORDS["alice"]})
        assert isinstance(asked, Page)
        assert redeemed(agent, pending, browser.submit(asked, {}, ALLOW))
        granted = [event for event in witness.settled() if event["type"] == "consent.granted"]
        assert {event["user_name"] for event in granted} == {"alice"}
    finally:
        browser.close()


def at_consent(
    agent: TestAgent, browser: Browser, person: str, *, prompt: str = "consent"
) -> tuple[Page, dict[str, str]]:
    """A person who has logged in and now reads the consent page, and the agent's request."""
    url, pending = agent.authorization_url("crm", TOOLS, prompt=prompt)
    login = browser.open(url)
    assert isinstance(login, Page)
    consent = browser.submit(login, {"username": person, "password": PASSWORDS[person]})
    assert isinstance(consent, Page)
    assert person in consent.text
    assert ALLOW in consent.forms[0].buttons
    return consent, pending


def assert_must_log_in(answered: Page | str) -> Page:
    """No code and no consent page: who it is must be proved first."""
    assert isinstance(answered, Page), answered
    assert "password" in answered.forms[0].fields
    return answered


def redeemed(agent: TestAgent, pending: dict[str, str], redirect: Page | str) -> str:
    """Whose token the code of a redirect is: its `sub`."""
    form = agent.redemption(pending | {"code": code_in(redirect)})
    answer = agent.token_request(form)
    assert answer.status_code == 200, answer.text
    return str(part(answer.json()["access_token"], 1)["sub"])


def cookies(browser: Browser) -> dict[str, str]:
    return dict(browser._http.cookies)


def session_cookie(browser: Browser) -> str:
    return cookies(browser)[SESSION_COOKIE]


def plant(browser: Browser, session: str) -> None:
    """Replace who a browser is logged in as."""
    browser._http.cookies.delete(SESSION_COOKIE)
    browser._http.cookies.set(SESSION_COOKIE, session, domain="127.0.0.1", path="/")
