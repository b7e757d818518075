"""The tokens of a run: in time, one at a time, and never again once it is over."""

import asyncio
from collections.abc import Mapping

import pytest

from countersign.agent_run.addresses import Endpoint
from countersign.agent_run.authority import HeldToken
from countersign.agent_run.errors import AgentRunError, RunOverError, UnavailableError
from countersign.agent_run.run_tokens import PAUSE_SECONDS, RunTokens

CRM = Endpoint("crm", "https://gw.example.com/crm/mcp")
NOTES = Endpoint("notes", "https://gw.example.com/notes/mcp")

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Issuer:
    """Answers token requests by number, and can be told to fail."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.life = 900.0
        self.forms: list[Mapping[str, str]] = []
        self.ended: list[str] = []
        self.failure: AgentRunError | None = None

    def clock(self) -> float:
        return self.now

    async def token(self, form: Mapping[str, str]) -> HeldToken:
        self.forms.append(form)
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        number = len(self.forms)
        return held(self, f"token-{number}", refresh=f"refresh-{number}")

    async def end(self, held: HeldToken) -> None:
        if self.failure is not None:
            raise self.failure
        self.ended.append(held.invocation)


def held(issuer: Issuer, token: str, *, run: str = "inv_1", refresh: str | None) -> HeldToken:
    return HeldToken(token, issuer.now, issuer.now + issuer.life, run, refresh)


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def tokens(issuer: Issuer, told: list[str]) -> RunTokens:
    return RunTokens(issuer, issuer.clock, told.append)


async def test_token_serves_until_a_minute_before_its_end(
    issuer: Issuer, tokens: RunTokens
) -> None:
    await tokens.begin_alone(CRM)
    issuer.now += 839
    assert await tokens.current(CRM) == "token-1"
    issuer.now += 1
    assert await tokens.current(CRM) == "token-2"


async def test_short_token_is_renewed_in_its_last_fifth(issuer: Issuer, tokens: RunTokens) -> None:
    issuer.life = 50
    await tokens.begin_alone(CRM)
    issuer.now += 39
    assert await tokens.current(CRM) == "token-1"
    issuer.now += 1
    assert await tokens.current(CRM) == "token-2"


@pytest.mark.requirement("C1")
async def test_agent_alone_has_one_run_for_all_servers_and_renewals(
    issuer: Issuer, tokens: RunTokens
) -> None:
    await tokens.begin_alone(CRM)
    await tokens.begin_alone(NOTES)
    issuer.now += 900
    await tokens.current(CRM)
    assert [form.get("invocation_token") for form in issuer.forms] == [None, "token-1", "token-2"]
    assert [form["resource"] for form in issuer.forms] == [
        CRM.resource,
        NOTES.resource,
        CRM.resource,
    ]


async def test_token_for_a_person_is_renewed_by_its_refresh_token_alone(
    issuer: Issuer, tokens: RunTokens
) -> None:
    tokens.begin_with(CRM, held(issuer, "first", refresh="refresh-0"))
    issuer.now += 900
    assert await tokens.current(CRM) == "token-1"
    assert issuer.forms == [{"grant_type": "refresh_token", "refresh_token": "refresh-0"}]
    issuer.now += 900
    await tokens.current(CRM)
    assert issuer.forms[1]["refresh_token"] == "refresh-1"


async def test_refresh_token_is_used_once_however_many_ask(
    issuer: Issuer, tokens: RunTokens
) -> None:
    tokens.begin_with(CRM, held(issuer, "first", refresh="refresh-0"))
    issuer.now += 900
    got = await asyncio.gather(*(tokens.current(CRM) for _ in range(20)))
    assert set(got) == {"token-1"}
    refused = await asyncio.gather(*(tokens.after_refusal(CRM, "token-1") for _ in range(20)))
    assert set(refused) == {"token-2"}
    assert len(issuer.forms) == 2


async def test_renewal_goes_on_when_who_asked_for_it_left(
    issuer: Issuer, tokens: RunTokens
) -> None:
    """Its answer thrown away, the next use of the refresh token would be a replay."""
    tokens.begin_with(CRM, held(issuer, "first", refresh="refresh-0"))
    issuer.now += 900
    asking = asyncio.create_task(tokens.current(CRM))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait((asking,))
    assert await tokens.current(CRM) == "token-1"
    assert len(issuer.forms) == 1


async def test_login_without_refresh_token_is_over_with_its_token(
    issuer: Issuer, tokens: RunTokens
) -> None:
    tokens.begin_with(CRM, held(issuer, "first", refresh=None))
    issuer.now += 900
    with pytest.raises(RunOverError, match="login is over"):
        await tokens.current(CRM)


async def test_run_that_was_cut_off_is_over_for_every_server_and_is_said_once(
    issuer: Issuer, tokens: RunTokens, told: list[str]
) -> None:
    await tokens.begin_alone(CRM)
    await tokens.begin_alone(NOTES)
    issuer.failure = RunOverError("invalid_grant", "This access has been revoked.")
    for _ in range(3):
        with pytest.raises(RunOverError, match="cut off: This access has been revoked"):
            await tokens.after_refusal(CRM, "token-1")
    issuer.failure = None
    with pytest.raises(RunOverError):  # whose own token looks good as yet
        await tokens.current(NOTES)
    assert len(issuer.forms) == 3
    assert told == ["The run was ended or cut off: This access has been revoked."]


async def test_server_that_is_away_leaves_the_token_until_its_end(
    issuer: Issuer, tokens: RunTokens
) -> None:
    await tokens.begin_alone(CRM)
    issuer.failure = UnavailableError("unreachable", "nobody answers")
    issuer.now += 850
    assert await tokens.current(CRM) == "token-1"
    assert await tokens.current(CRM) == "token-1"
    assert len(issuer.forms) == 2  # not asked at every call
    issuer.now += PAUSE_SECONDS
    assert await tokens.current(CRM) == "token-1"
    assert len(issuer.forms) == 3
    issuer.now += 100
    with pytest.raises(UnavailableError):
        await tokens.current(CRM)
    issuer.failure = None
    assert await tokens.current(CRM) == "token-5"


@pytest.mark.requirement("C30")
async def test_end_ends_every_run_once_and_no_token_is_given_after(
    issuer: Issuer, tokens: RunTokens
) -> None:
    tokens.begin_with(CRM, held(issuer, "one", run="inv_1", refresh="r"))
    tokens.begin_with(NOTES, held(issuer, "two", run="inv_2", refresh="r"))
    assert tokens.invocations == ("inv_1", "inv_2")
    await tokens.end()
    assert issuer.ended == ["inv_1", "inv_2"]
    with pytest.raises(RunOverError):
        await tokens.current(CRM)


async def test_end_that_fails_is_said(issuer: Issuer, tokens: RunTokens, told: list[str]) -> None:
    await tokens.begin_alone(CRM)
    issuer.failure = UnavailableError("unreachable", "nobody answers")
    await tokens.end()
    assert "could not be ended" in told[0]
