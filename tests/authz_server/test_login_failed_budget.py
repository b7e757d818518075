"""What failed logins write to the audit: those that cost nothing share one budget."""

import pytest

from audit_log.event import EventType
from audit_log.refusal_budgets import EACH_PER_SECOND, STRANGERS_PER_SECOND
from idp_connectors.workforce.login import LoginFailure, LoginFailureCode
from tests.authz_server.front_half import FrontHalf, is_consent

UNKNOWN_PROVIDER = {"identity_provider": "nonsense", "username": "alice", "password": "hunter-2"}
OVERLONG = {"username": "x" * 257, "password": "hunter-2"}
WRONG_PASSWORD = {"username": "alice", "password": "hunter-2"}


def failures(half: FrontHalf) -> int:
    return len(half.spool.of(EventType.LOGIN_FAILED))


@pytest.mark.requirement("strangers-cannot-fill-the-spool")
@pytest.mark.parametrize("form", [UNKNOWN_PROVIDER, OVERLONG], ids=["provider", "overlong"])
def test_login_failures_that_reached_no_hash_are_written_up_to_a_rate_and_then_counted(
    half: FrontHalf, form: dict[str, str]
) -> None:
    browser = half.browser()
    page = browser.authorize()
    for _ in range(STRANGERS_PER_SECOND + 9):
        assert browser.post(page, **form).status_code == 403
    assert failures(half) == STRANGERS_PER_SECOND
    half.clock.now += 1
    browser.post(page, **form)
    event = half.spool.events[-1]
    assert (event.detail or "").endswith("(and 9 refusals before it)")
    assert (event.client_id, event.reasons) == ("support-bot", ("login.invalid_credentials",))
    assert is_consent(browser.log_in(page))


@pytest.mark.requirement("strangers-cannot-fill-the-spool")
@pytest.mark.parametrize(
    "code", [LoginFailureCode.LOCKED, LoginFailureCode.BUSY, LoginFailureCode.UNAVAILABLE]
)
def test_login_locked_or_busy_is_written_up_to_a_rate(
    half: FrontHalf, code: LoginFailureCode
) -> None:
    half.accounts.failure = LoginFailure(code, "Wait a little.", "later", 30)
    browser = half.browser()
    page = browser.authorize()
    for _ in range(STRANGERS_PER_SECOND + 9):
        browser.post(page, **WRONG_PASSWORD)
    assert failures(half) == STRANGERS_PER_SECOND


@pytest.mark.requirement("strangers-cannot-fill-the-spool")
def test_login_wrong_password_is_written_beside_a_flood_of_failures_that_cost_nothing(
    half: FrontHalf,
) -> None:
    browser = half.browser()
    page = browser.authorize()
    for _ in range(STRANGERS_PER_SECOND + 9):
        browser.post(page, **UNKNOWN_PROVIDER)
    browser.post(page, **WRONG_PASSWORD)
    assert failures(half) == STRANGERS_PER_SECOND + 1
    assert half.spool.events[-1].detail == "no match"


@pytest.mark.requirement("strangers-cannot-fill-the-spool")
def test_login_wrong_passwords_have_a_budget_too(half: FrontHalf) -> None:
    browser = half.browser()
    page = browser.authorize()
    for _ in range(EACH_PER_SECOND + 1):
        browser.post(page, **WRONG_PASSWORD)
    assert failures(half) == EACH_PER_SECOND
