"""Consent: what the page says, whose answer counts, what is remembered, and what withdraws it."""

from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from sqlalchemy import select
from sqlmodel import col

from audit_log.event import EventType, Outcome, PrincipalKind
from authz_server import authorize_answers
from authz_server.pages.tool_words import CARE
from authz_server.store.consents import ConsentRow
from authz_server.store.interactions import INTERACTION_LIFETIME_SECONDS
from authz_server.token_request import IssuancePlan
from database.errors import DatabaseUnavailableError
from registry.blocks import BlockKind
from tests.authz_server.front_half import (
    CRM_URL,
    FrontHalf,
    answer_of,
    cli_parameters,
    client,
    form_action,
    hidden_fields,
    is_consent,
    is_login,
    server,
    tool,
)
from tests.authz_server.front_requests import (
    agreed,
    asked,
    change_agent,
    change_entry,
    change_server,
    change_tools,
    details,
    of_crm,
    set_clients,
)
from tests.busy_database import busy_after

DAY = 86_400
WEB = {"client_id": "web-bot", "redirect_uri": "https://app.example.com/cb?tenant=1"}
ONLY_GET = details(of_crm("get_account"))


def test_consent_page_names_person_agent_owner_server_and_exactly_the_tools(
    half: FrontHalf,
) -> None:
    _, page = asked(half)
    for text in (
        "alice",
        "(local)",
        "support-bot",
        "(production)",
        "support-platform@example.com",
        "by the operating system it runs on",
        f'<dd>crm <span class="quiet">({urlsplit(CRM_URL).netloc})</span></dd>',
        "30 days",
        "these 2 tools",
        '<code>get_account</code> <span><span class="read">reads</span></span>',
        "<code>refund</code>",
        '<span class="write">can change data</span> · <span class="write">touches important data',
        "countersign kill consent/grt_",
        "<code>http://127.0.0.1:53682</code>",
    ):
        assert text in page.text, text
    assert "list_hours" not in page.text
    assert "delete_account" not in page.text
    assert "sensitivity" not in page.text
    assert "checked" not in page.text  # nothing is chosen beforehand


@pytest.mark.parametrize(
    ("level", "text"),
    [
        (0, "by its own word only"),
        (1, "operating system"),
        (2, "platform&#39;s signature"),
        (3, "measured image"),
    ],
)
def test_consent_page_says_how_the_agent_proves_itself(
    half: FrontHalf, level: int, text: str
) -> None:
    change_entry(half, "support-bot", minimum_level=level)
    _, page = asked(half)
    assert text in page.text or text.replace("&#39;", "'") in page.text


def describe(half: FrontHalf, description: object) -> None:
    change_tools(half, definition={"name": "any", "description": description})


@pytest.mark.parametrize(
    ("description", "shown"),
    [
        ("Read one account.", "Read one account."),
        ("Read\n\n  one\taccount.", "Read one account."),
        ("<b>Free</b> & safe", "&lt;b&gt;Free&lt;/b&gt; &amp; safe"),
        ("paid \u202ekcab\u202c\x00\x1b[2J\x9b", "paid kcab[2J"),
        ("x" * 200, "x" * 200),
        ("x" * 201, "x" * 199 + "…"),
        ("y" * 100_000, "y" * 199 + "…"),
    ],
)
def test_consent_page_shows_each_description_short_and_harmless(
    half: FrontHalf, description: str, shown: str
) -> None:
    describe(half, description)
    _, page = asked(half, authorization_details=ONLY_GET)
    assert f'<span class="about">{shown}</span>' in page.text


@pytest.mark.parametrize("description", [None, 7, {"a": "b"}, "", " \n\u200b"])
def test_consent_page_without_a_description_shows_none(
    half: FrontHalf, description: object
) -> None:
    describe(half, description)
    _, page = asked(half, authorization_details=ONLY_GET)
    assert 'class="about"' not in page.text


@pytest.mark.parametrize(
    ("sensitivity", "words"),
    [(0, None), (1, "needs care"), (2, "touches important data"), (3, "cannot be undone")],
)
def test_consent_page_says_in_words_how_sensitive_a_tool_is(
    half: FrontHalf, sensitivity: int, words: str | None
) -> None:
    change_tools(half, sensitivity=sensitivity)
    _, page = asked(half, authorization_details=ONLY_GET)
    assert [each for each in CARE if each and each in page.text] == ([words] if words else [])


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("https://crm.example:8443/mcp?x=1", "(crm.example:8443)"),
        ("stdio://crm", "(a program beside the gateway)"),
    ],
)
def test_consent_page_says_where_the_server_is(half: FrontHalf, url: str, place: str) -> None:
    change_server(half, url)
    _, page = asked(half, authorization_details=ONLY_GET)
    assert place in page.text


def test_consent_page_counts_one_tool_and_one_day(half: FrontHalf) -> None:
    change_agent(half, "support-bot", consent_days=1)
    _, page = asked(half, authorization_details=ONLY_GET)
    assert "this tool" in page.text
    assert "1 day," in page.text


def test_consent_page_of_the_command_line_names_the_person_and_no_agent(half: FrontHalf) -> None:
    _, page = asked(half, **cli_parameters(half.issuer))
    assert "Let the command line act as you?" in page.text
    assert "alice" in page.text
    assert "Run by" not in page.text


def test_consent_given_is_recorded_with_the_code_and_the_code_names_it(half: FrontHalf) -> None:
    agreed(half)
    (login,) = half.spool.events
    (consent,), (code,) = map(half.cuts, (EventType.CONSENT_GRANTED, EventType.CODE_ISSUED))
    assert consent.sequence < code.sequence
    assert (consent.type, consent.outcome) == (EventType.CONSENT_GRANTED, Outcome.ALLOWED)
    assert consent.principal_kind is PrincipalKind.AGENT_FOR_PERSON
    assert (consent.user, consent.user_name, consent.agent) == (login.user, "alice", "support-bot")
    assert (consent.target_service, consent.detail) == ("crm", "get_account refund")
    assert (code.type, code.consent) == (EventType.CODE_ISSUED, consent.consent)
    assert code.consent is not None
    assert code.consent.startswith("grt_")
    assert code.invocation is not None
    assert code.invocation.startswith("inv_")


def test_consent_denied_tells_the_client_and_leaves_nothing(half: FrontHalf) -> None:
    browser, page = asked(half)
    said = answer_of(browser.submit(page, answer="deny"))
    assert (said["error"], said["state"], said["iss"]) == (
        "access_denied",
        "af0ifjsldkj",
        half.issuer,
    )
    event = half.spool.events[-1]
    assert (event.type, event.outcome) == (EventType.CONSENT_DENIED, Outcome.DENIED)
    assert (event.reasons, event.agent) == (("consent.denied",), "support-bot")
    assert half.cuts(EventType.CODE_ISSUED) == []
    assert is_consent(browser.authorize())  # a no is not remembered either


@pytest.mark.parametrize("answer", [None, "", "yes", "ALLOW"])
def test_consent_without_an_answer_is_none(half: FrontHalf, answer: str | None) -> None:
    browser, page = asked(half)
    assert browser.submit(page, answer=answer).status_code == 400
    assert half.spool.events[-1].reasons == ("consent.no_answer",)
    assert "code" in answer_of(browser.allow(page))


@pytest.mark.requirement("attack-12")
def test_consent_by_another_person_starts_with_their_login(half: FrontHalf) -> None:
    browser, page = asked(half)
    again = browser.submit(page, answer="other_person")
    assert is_login(again)
    half.accounts.groups["bob"] = ("local/support",)
    page = browser.log_in(again, "bob")
    assert is_consent(page)
    browser.allow(page)
    assert half.cuts(EventType.CONSENT_GRANTED)[0].user_name == "bob"


@pytest.mark.requirement("attack-12")
@pytest.mark.parametrize("csrf", [None, "", "x", "0" * 64])
def test_consent_without_the_forms_token_is_refused(half: FrontHalf, csrf: str | None) -> None:
    browser, page = asked(half)
    answer = browser.submit(page, answer="allow", csrf=csrf)
    assert (answer.status_code, answer.headers.get("location")) == (403, None)
    event = half.spool.events[-1]
    assert (event.type, event.reasons) == (EventType.AUTHORIZE_REFUSED, ("consent.forged",))
    assert "code" in answer_of(browser.allow(page))


@pytest.mark.requirement("attack-12")
def test_consent_token_of_the_login_form_or_of_another_request_is_refused(half: FrontHalf) -> None:
    browser = half.browser()
    login = browser.authorize()
    page = browser.log_in(login)
    other = browser.authorize()
    for stolen in (hidden_fields(login)["csrf"], hidden_fields(other)["csrf"]):
        assert browser.submit(page, answer="allow", csrf=stolen).status_code == 403
    assert "code" in answer_of(browser.allow(page))


@pytest.mark.requirement("attack-12")
@pytest.mark.parametrize(
    "headers", [{"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}]
)
def test_consent_posted_from_another_origin_is_refused(
    half: FrontHalf, headers: dict[str, str]
) -> None:
    browser, page = asked(half)
    data = {**hidden_fields(page), "answer": "allow"}
    answer = browser.http.post(form_action(page), data=data, headers=headers)
    assert answer.status_code == 403
    assert half.cuts(EventType.CODE_ISSUED) == []
    assert "code" in answer_of(browser.allow(page))


@pytest.mark.requirement("attack-19")
def test_consent_answer_sent_twice_is_refused(half: FrontHalf) -> None:
    browser, page = asked(half)
    data: dict[str, Any] = {**hidden_fields(page), "answer": ["deny", "allow"]}
    assert browser.http.post(form_action(page), data=data).status_code == 403
    assert browser.http.post("/oauth/consent?answer=allow", data=data).status_code == 400
    assert half.cuts(EventType.CODE_ISSUED) == []


@pytest.mark.requirement("attack-12")
def test_consent_answered_in_another_browser_is_refused(half: FrontHalf) -> None:
    """An attacker's request, answered by a person who is logged in: no code for the attacker."""
    attacker, _ = asked(half, "alice")
    page = attacker.authorize()
    victim, _ = asked(half)
    answer = victim.allow(page)
    assert answer.status_code == 400
    assert half.spool.events[-1].reasons == ("interaction.not_open",)
    assert "code" in answer_of(attacker.allow(page))


@pytest.mark.requirement("attack-12")
def test_consent_page_comes_after_login_whatever_is_asked_for_first(half: FrontHalf) -> None:
    browser = half.browser()
    interaction = hidden_fields(browser.authorize())["interaction"]
    shown = browser.http.get("/oauth/consent", params={"interaction": interaction})
    assert is_login(browser.follow(shown))
    posted = browser.http.post(
        "/oauth/consent", data={"interaction": interaction or "", "answer": "allow"}
    )
    assert is_login(browser.follow(posted))
    assert half.cuts(EventType.CODE_ISSUED) == []


@pytest.mark.requirement("attack-12")
def test_consent_counts_once(half: FrontHalf) -> None:
    browser, page = asked(half)
    assert "code" in answer_of(browser.allow(page))
    for answer in ("allow", "deny", "other_person"):
        assert browser.submit(page, answer=answer).status_code == 400
    assert len(half.cuts(EventType.CODE_ISSUED)) == 1


@pytest.mark.requirement("attack-12")
@pytest.mark.parametrize("step", ["allow", "deny", "stored", "not_in_group"])
def test_consent_answered_meanwhile_in_another_tab_gives_nothing_and_is_recorded(
    half: FrontHalf, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    browser = agreed(half)
    page = browser.authorize(prompt="consent")
    assert is_consent(page)
    half.spool.events.clear()

    async def somebody_was_first(_interaction_id: str, _now: int, **_: Any) -> bool:
        return False

    with monkeypatch.context() as patched:
        patched.setattr(half.parts.interactions, "finish", somebody_was_first)
        if step == "stored":
            answer = browser.authorize()
        elif step == "not_in_group":
            other = half.browser()
            answer = other.log_in(other.authorize(), "bob")
        else:
            answer = browser.submit(page, answer=step)
    assert (answer.status_code, answer.headers.get("location")) == (400, None)
    event = half.spool.events[-1]
    assert (event.type, event.reasons) == (
        EventType.AUTHORIZE_REFUSED,
        ("interaction.not_open",),
    )
    assert len(half.cuts(EventType.CODE_ISSUED)) == 1  # the one before
    assert "code" in answer_of(browser.allow(page))


def test_consent_is_possible_for_ten_minutes(half: FrontHalf) -> None:
    browser, page = asked(half)
    half.clock.now += INTERACTION_LIFETIME_SECONDS - 1
    assert "code" in answer_of(browser.allow(page))
    browser, page = asked(half, prompt="consent")
    half.clock.now += INTERACTION_LIFETIME_SECONDS
    assert browser.allow(page).status_code == 400


def test_consent_of_a_person_the_agent_does_not_act_for_is_a_page_without_code(
    half: FrontHalf,
) -> None:
    browser = half.browser()
    page = browser.log_in(browser.authorize(), "bob")
    assert page.status_code == 403
    assert "none of the groups" in page.text
    assert "error=access_denied" in page.text  # the link back tells the client
    event = half.spool.events[-1]
    assert (event.type, event.reasons) == (
        EventType.AUTHORIZE_REFUSED,
        ("authorize.not_in_group",),
    )
    assert (event.user_name, event.agent) == ("bob", "support-bot")
    assert half.cuts(EventType.CODE_ISSUED) == []
    half.accounts.groups["bob"] = ("local/support",)
    asked(half, "bob")


def test_consent_of_a_person_who_is_not_acted_for_is_told_to_a_silent_client(
    half: FrontHalf,
) -> None:
    browser = half.browser()
    browser.log_in(browser.authorize(), "bob")
    assert answer_of(browser.authorize(prompt="none"))["error"] == "access_denied"


@pytest.mark.requirement("attack-28")
@pytest.mark.parametrize(
    ("kind", "subject_id"),
    [
        (BlockKind.AGENT, "support-bot"),
        (BlockKind.AGENT_GROUP, "support-agents"),
        (BlockKind.CLIENT, "support-bot"),
    ],
)
def test_consent_for_an_agent_blocked_meanwhile_gives_no_code(
    half: FrontHalf, kind: BlockKind, subject_id: str
) -> None:
    browser, page = asked(half)
    half.block(kind, subject_id)
    answer = browser.allow(page)
    assert answer.status_code == 403
    assert half.spool.events[-1].reasons == ("authorize.blocked",)
    assert half.cuts(EventType.CODE_ISSUED) == []
    half.restore(kind, subject_id)
    half.clock.now += 2
    page = browser.authorize()
    assert "code" in answer_of(browser.allow(page))


@pytest.mark.requirement("trap-restore-revives-login")
@pytest.mark.parametrize(
    ("kind", "subject_id"),
    [
        (BlockKind.AGENT, "support-bot"),
        (BlockKind.AGENT_GROUP, "support-agents"),
        (BlockKind.CLIENT, "support-bot"),
        (BlockKind.SUBJECT, ""),
    ],
)
@pytest.mark.parametrize("logs_in_before", [True, False])
def test_consent_of_a_request_from_before_a_kill_gives_no_code_after_the_restore(
    half: FrontHalf, kind: BlockKind, subject_id: str, logs_in_before: bool
) -> None:
    earlier = half.browser()
    earlier.log_in(earlier.authorize())  # so that the person has a name to kill
    subject = subject_id or half.spool.events[-1].user or ""
    browser = half.browser()
    page = browser.authorize()
    if logs_in_before:
        page = browser.log_in(page)
    half.block(kind, subject)
    half.restore(kind, subject)
    half.clock.now += 2
    answer = browser.allow(page) if logs_in_before else browser.log_in(page)
    assert answer.status_code != 200 or is_login(answer)
    assert half.cuts(EventType.CODE_ISSUED) == []
    fresh = half.browser()
    assert "code" in answer_of(fresh.allow(fresh.log_in(fresh.authorize())))


@pytest.mark.requirement("attack-28")
@pytest.mark.parametrize("kind", [BlockKind.SUBJECT, BlockKind.SESSION, BlockKind.CLAIMS])
def test_consent_of_a_person_cut_off_meanwhile_starts_with_a_login(
    half: FrontHalf, kind: BlockKind
) -> None:
    browser, page = asked(half)
    login = half.spool.of(EventType.LOGIN_SUCCEEDED)[0]
    half.block(kind, (login.session if kind is BlockKind.SESSION else login.user) or "")
    assert is_login(browser.allow(page))
    assert half.cuts(EventType.CODE_ISSUED) == []


def test_consent_for_what_has_vanished_meanwhile_gives_no_code(half: FrontHalf) -> None:
    snapshot = half.live.snapshot
    no_tools = msgspec.structs.replace(
        snapshot, servers=snapshot.servers | {"crm": server("crm", tool("other"))}
    )
    no_agent = msgspec.structs.replace(
        snapshot, agents={k: v for k, v in snapshot.agents.items() if k != "support-bot"}
    )
    no_client = msgspec.structs.replace(
        snapshot, clients={k: v for k, v in snapshot.clients.items() if k != "support-bot"}
    )
    no_gateway = msgspec.structs.replace(snapshot, gateways={})
    other_agent = msgspec.structs.replace(
        snapshot,
        clients=snapshot.clients | {"support-bot": client("support-bot", "agent", agent="web-bot")},
    )
    for changed in (no_tools, no_agent, no_client, no_gateway, other_agent):
        half.live.snapshot = snapshot
        browser, page = asked(half)
        half.live.snapshot = changed
        answer = browser.allow(page)
        assert answer.status_code == 403
        assert half.spool.events[-1].reasons == ("authorize.gone",)
    assert half.cuts(EventType.CODE_ISSUED) == []


def test_consent_for_tools_that_became_fewer_gives_the_fewer(half: FrontHalf) -> None:
    browser, page = asked(half)
    change_entry(half, "support-bot", tools=("crm/get_*",))
    assert "code" in answer_of(browser.allow(page))
    assert half.cuts(EventType.CONSENT_GRANTED)[0].detail == "get_account"


def test_consent_page_opened_after_the_group_was_lost_is_a_refusal(half: FrontHalf) -> None:
    browser, page = asked(half)
    change_agent(half, "support-bot", acts_for_groups=("local/admins",))
    interaction = hidden_fields(page)["interaction"]
    shown = browser.http.get("/oauth/consent", params={"interaction": interaction})
    assert shown.status_code == 403
    assert half.spool.events[-1].reasons == ("authorize.not_in_group",)


def test_consent_of_a_command_line_that_is_gone_or_blocked_gives_no_code(half: FrontHalf) -> None:
    browser, page = asked(half, **cli_parameters(half.issuer))
    half.block(BlockKind.CLIENT, "countersign-cli")
    assert browser.allow(page).status_code == 403
    half.restore(BlockKind.CLIENT, "countersign-cli")
    half.clock.now += 2
    browser, page = asked(half, **cli_parameters(half.issuer))
    clients = half.live.snapshot.clients
    set_clients(half, {"countersign-cli": clients["web-portal"]})
    assert browser.allow(page).status_code == 403
    assert half.spool.events[-1].reasons == ("authorize.gone",)


@pytest.mark.requirement("attack-12")
@pytest.mark.requirement("trap-act-unrecorded")
@pytest.mark.parametrize("what", ["answer", "record", "code"])
def test_consent_its_record_and_its_code_are_written_or_none_and_may_be_given_again(
    half: FrontHalf, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    browser, page = asked(half)

    def broken(*_: object, **__: object) -> None:
        raise DatabaseUnavailableError("full")

    with monkeypatch.context() as patched:
        if what == "answer":
            patched.setattr(half.parts.interactions, "finish", broken)
        else:
            patched.setattr(
                authorize_answers, "append_in" if what == "record" else "save_in", broken
            )
        answer = browser.allow(page)
    assert (answer.status_code, answer.headers.get("location")) == (503, None)
    assert stored_consents(half) == []
    assert half.cuts(EventType.CONSENT_GRANTED) == []
    assert half.cuts(EventType.CODE_ISSUED) == []

    code = answer_of(browser.allow(page))["code"]
    (granted,), (issued,) = map(half.cuts, (EventType.CONSENT_GRANTED, EventType.CODE_ISSUED))
    assert stored_consents(half) == [granted.consent] == [issued.consent]
    assert isinstance(half.redeem(code), IssuancePlan)


@pytest.mark.requirement("trap-act-unrecorded")
def test_code_on_a_stored_consent_and_its_record_are_one_write(half: FrontHalf) -> None:
    browser = agreed(half)
    with busy_after(1, half.database):  # the request itself; its answer is the second
        answer = browser.authorize()
    assert (answer.status_code, answer.headers.get("location")) == (503, None)
    assert len(half.cuts(EventType.CODE_ISSUED)) == 1  # the one before
    with busy_after(2, half.database):
        code = answer_of(browser.authorize())["code"]
    assert len(half.cuts(EventType.CODE_ISSUED)) == 2
    assert isinstance(half.redeem(code), IssuancePlan)


def test_consent_and_code_do_not_depend_on_room_in_the_spool(half: FrontHalf) -> None:
    browser, page = asked(half)
    half.spool.is_broken = True
    assert "code" in answer_of(browser.allow(page))
    (granted,) = half.cuts(EventType.CONSENT_GRANTED)
    assert stored_consents(half) == [granted.consent]
    assert len(half.cuts(EventType.CODE_ISSUED)) == 1


def stored_consents(half: FrontHalf) -> list[str]:
    return half.database.read(
        lambda connection: list(connection.execute(select(col(ConsentRow.gid))).scalars())
    )
