"""The whole way over HTTP: /authorize, login, consent, code, token, and what cuts it off."""

import re
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import replace
from html import unescape
from typing import Any

import httpx2
import pytest

from audit_log.event import EventType
from authz_server.issuing import using_up
from authz_server.issuing.signing_keys import KeyPurpose
from credential_providers import catalog as credential_catalog
from database.errors import DatabaseUnavailableError
from idp_connectors import catalog as connector_catalog
from registry.blocks import BlockKind
from registry.store import RegistryStore
from tests.authz_server.back_half import (
    CRM,
    ISSUER,
    Authority,
    Workload,
    agent,
    error_of,
    payload_of,
)
from tests.authz_server.cuts import recorded_in
from tests.authz_server.front_half import CHALLENGE, VERIFIER, Accounts, request_parameters
from token_exchange.claims import VerifiedClaims
from token_exchange.verify import verify_access_token

pytestmark = pytest.mark.anyio

REDIRECT_URI = "http://127.0.0.1:5000/callback"


@pytest.fixture
async def site(authority: Authority) -> Authority:
    """The server with a login form, and support-bot with a redirect URI."""
    settings = connector_catalog.settings_models() | credential_catalog.settings_models()
    store = RegistryStore(
        authority.database, issuer=ISSUER, settings_models=settings, clock=authority.clock
    )
    with_redirect = agent(
        "support-bot",
        1000,
        ["crm/get_*", "notes/search"],
        acts_for={"groups": ["local/support"]},
        redirect_uris=["http://127.0.0.1/callback"],
    )
    plan = store.plan([with_redirect])
    assert not plan.problems
    await store.apply(plan, "test")
    await authority.parts.live.refresh()
    accounts = Accounts()
    parts = replace(authority.parts, person_logins=lambda: {"local": accounts})
    return Authority(authority.directory, parts, authority.database, authority.clock)


class Journey:
    """A person's browser at the real application."""

    def __init__(self, site: Authority) -> None:
        transport = httpx2.ASGITransport(app=site.app)
        self.http = httpx2.AsyncClient(transport=transport, base_url=ISSUER)

    async def follow(self, answer: httpx2.Response) -> httpx2.Response:
        while answer.headers.get("location", "").startswith(f"{ISSUER}/oauth/"):
            answer = await self.http.get(answer.headers["location"])
        return answer

    async def submit(self, page: httpx2.Response, **fields: str) -> httpx2.Response:
        hidden = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page.text)
        data = {name: unescape(value) for name, value in hidden} | fields
        found = re.search(r'<form method="post" action="([^"]+)"', page.text)
        assert found is not None, page.text
        return await self.follow(await self.http.post(unescape(found.group(1)), data=data))

    async def code(self, **changes: Any) -> str:
        asked = {"redirect_uri": REDIRECT_URI, "resource": CRM, "code_challenge": CHALLENGE}
        parameters = request_parameters(**(asked | changes))
        page = await self.follow(await self.http.get("/oauth/authorize", params=parameters))
        page = await self.submit(page, username="alice", password="correct horse")
        if "location" not in page.headers:
            page = await self.submit(page, answer="allow")
        location = httpx2.URL(page.headers["location"])
        assert location.params["iss"] == ISSUER
        return str(location.params["code"])


async def new_code(site: Authority, **changes: Any) -> str:
    journey = Journey(site)
    try:
        return await journey.code(**changes)
    finally:
        await journey.http.aclose()


async def redeem(workload: Workload, code: str, **changes: Any) -> httpx2.Response:
    form: dict[str, Any] = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": REDIRECT_URI,
        "code_verifier": VERIFIER,
        "resource": CRM,
    }
    return await workload.ask(**(form | changes))


async def renew(workload: Workload, refresh_token: str) -> httpx2.Response:
    return await workload.ask(grant_type="refresh_token", refresh_token=refresh_token, resource=CRM)


async def test_journey_ends_in_a_token_of_person_and_agent(site: Authority) -> None:
    workload = site.workload(1000)
    answer = await redeem(workload, await new_code(site, scope="mcp:tools openid", nonce="n-1"))
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["token_type"], body["scope"]) == ("DPoP", "mcp:tools openid")
    verified = verify_access_token(
        body["access_token"],
        keys=site.parts.keys.verification_keys(KeyPurpose.TOKENS),
        issuer=ISSUER,
        audiences={CRM},
        now=site.now,
    )
    assert isinstance(verified, VerifiedClaims)
    claims = payload_of(body["access_token"])
    assert claims["act"]["agent"] == "support-bot"
    assert claims["cnf"] == {"jkt": workload.thumbprint}
    assert claims["uctx"] == {"groups": ["local/support", "local/staff"]}
    assert payload_of(body["id_token"])["nonce"] == "n-1"
    (login,) = site.spool.events
    consent, code, token = recorded_in(site.database)
    assert [event.type for event in (login, consent, code, token)] == [
        EventType.LOGIN_SUCCEEDED,
        EventType.CONSENT_GRANTED,
        EventType.CODE_ISSUED,
        EventType.TOKEN_ISSUED,
    ]
    assert {event.user for event in (login, consent, code, token)} == {claims["sub"]}
    assert (consent.consent, code.consent, token.consent) == (claims["gid"],) * 3
    assert (code.invocation, token.invocation) == (claims["inv"],) * 2


@pytest.mark.requirement("attack-9")
async def test_journey_with_a_code_used_twice_revokes_the_token_that_was_issued(
    site: Authority,
) -> None:
    workload, gateway = site.workload(1000), await site.enrolled()
    code = await new_code(site)
    token = (await redeem(workload, code)).json()["access_token"]
    other = (await redeem(workload, await new_code(site))).json()["access_token"]
    assert (await gateway.exchange(token)).status_code == 200
    assert error_of(await redeem(workload, code)) == "invalid_grant"
    await site.parts.live.refresh()
    site.clock.now += 2
    assert error_of(await gateway.exchange(token)) in {"invalid_grant", "invalid_request"}
    assert error_of(await redeem(workload, code)) == "invalid_grant"
    assert (await gateway.exchange(other)).status_code == 200  # and nothing else
    refusals = [event.reasons for event in site.spool.of(EventType.TOKEN_REFUSED)]
    assert refusals == [("code.replayed",)] * 2


async def refused_then_given(
    site: Authority,
    monkeypatch: pytest.MonkeyPatch,
    ask: Callable[[], Awaitable[httpx2.Response]],
) -> dict[str, Any]:
    """503 while the issuance cannot be recorded; then what the very same request is given."""

    def broken(*_: object, **__: object) -> None:
        raise DatabaseUnavailableError("full")

    before = len(site.cuts(EventType.TOKEN_ISSUED))
    with monkeypatch.context() as patched:
        patched.setattr(using_up, "append_in", broken)
        assert (await ask()).status_code == 503
    assert len(site.cuts(EventType.TOKEN_ISSUED)) == before
    answer = await ask()
    assert answer.status_code == 200, answer.text
    assert len(site.cuts(EventType.TOKEN_ISSUED)) == before + 1
    body: dict[str, Any] = answer.json()
    return body


@pytest.mark.requirement("attack-9")
@pytest.mark.requirement("attack-14")
@pytest.mark.requirement("trap-act-unrecorded")
async def test_journey_code_and_refresh_token_stay_good_until_their_token_is_recorded(
    site: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    workload, code = site.workload(1000), await new_code(site, scope="mcp:tools offline_access")
    given = await refused_then_given(site, monkeypatch, lambda: redeem(workload, code))
    used = given["refresh_token"]
    again = await refused_then_given(site, monkeypatch, lambda: renew(workload, used))
    assert site.cuts(EventType.BLOCKED) == []

    assert error_of(await renew(workload, used)) == "invalid_grant"  # a true replay
    (blocked,) = site.cuts(EventType.BLOCKED)
    assert blocked.reasons == ("refresh.replayed",)
    assert error_of(await renew(workload, again["refresh_token"])) == "invalid_grant"


@pytest.mark.requirement("attack-9")
@pytest.mark.requirement("trap-act-unrecorded")
async def test_journey_goes_on_while_the_spool_is_full_until_a_true_replay(
    site: Authority,
) -> None:
    workload, code = site.workload(1000), await new_code(site)
    site.spool.is_broken = True
    assert (await redeem(workload, code)).status_code == 200  # recorded with its code
    assert len(site.cuts(EventType.TOKEN_ISSUED)) == 1
    assert (await redeem(workload, code)).status_code == 503  # its refusal cannot be recorded
    (blocked,) = site.cuts(EventType.BLOCKED)
    assert blocked.reasons == ("code.replayed",)
    assert len(site.cuts(EventType.TOKEN_ISSUED)) == 1


@pytest.mark.requirement("attack-9")
@pytest.mark.requirement("attack-17")
async def test_journey_code_presented_by_another_agents_workload_is_refused(
    site: Authority,
) -> None:
    code = await new_code(site)
    assert error_of(await redeem(site.workload(1001), code)) in {
        "invalid_grant",
        "unauthorized_client",
    }
    # Whose attestation it is decides, not the client_id it writes into the form.
    answer = await redeem(site.workload(1001), code, client_id="support-bot")
    assert error_of(answer) in {"invalid_client", "invalid_request"}
    assert len(site.refusals()) == 2
    assert (await redeem(site.workload(1000), code)).status_code == 200


@pytest.mark.requirement("attack-28")
@pytest.mark.parametrize("kind", ["agent", "client_id", "sub", "sid", "gid", "claims"])
async def test_journey_cut_off_between_code_and_token_ends_there(
    site: Authority, kind: str
) -> None:
    code = await new_code(site)
    issued = site.cuts(EventType.CODE_ISSUED)[0]
    subject_id = {
        "agent": issued.agent,
        "client_id": issued.client_id,
        "sub": issued.user,
        "sid": issued.session,
        "gid": issued.consent,
        "claims": issued.user,
    }[kind]
    await site.block(BlockKind(kind), subject_id or "")
    assert error_of(await redeem(site.workload(1000), code)) == "invalid_grant"
    assert site.refusals()[-1].error_code == "invalid_grant"
    await site.restore(BlockKind(kind), subject_id or "")
    site.clock.now += 2
    later = await new_code(site)
    assert (await redeem(site.workload(1000), later)).status_code == 200


@pytest.mark.requirement("attack-9")
async def test_journey_code_older_than_a_minute_is_refused(site: Authority) -> None:
    code = await new_code(site)
    site.clock.now += 60
    await site.parts.live.refresh()
    assert error_of(await redeem(site.workload(1000), code)) == "invalid_grant"
    code = await new_code(site)
    site.clock.now += 59
    await site.parts.live.refresh()
    assert (await redeem(site.workload(1000), code)).status_code == 200


@pytest.mark.requirement("attack-15")
async def test_journey_code_bound_to_a_key_is_for_the_workload_with_it(site: Authority) -> None:
    mine, stranger = site.workload(1000), site.workload(1000)
    code = await new_code(site, dpop_jkt=mine.thumbprint)
    assert error_of(await redeem(stranger, code)) == "invalid_dpop_proof"
    assert (await redeem(mine, code)).status_code == 200


@pytest.mark.requirement("attack-16")
async def test_journey_code_asked_to_be_wider_at_the_token_endpoint_is_not(
    site: Authority,
) -> None:
    code = await new_code(site)
    details = '[{"type":"mcp_tool","server":"crm","tools":["*"],"actions":["call"]}]'
    answer = await redeem(
        site.workload(1000), code, scope="mcp:tools admin", authorization_details=details
    )
    assert answer.status_code == 200, answer.text
    claims = payload_of(answer.json()["access_token"])
    assert claims["scope"] == "mcp:tools"
    assert claims["authorization_details"][0]["tools"] == ["get_account"]


@pytest.mark.requirement("attack-26")
async def test_journey_leaves_no_secret_in_the_audit(site: Authority) -> None:
    code = await new_code(site, state=secrets.token_hex(8))
    answer = await redeem(site.workload(1000), code)
    told = " ".join(map(str, (*site.spool.events, *recorded_in(site.database))))
    for secret in (code, VERIFIER, "correct horse", answer.json()["access_token"]):
        assert secret not in told
