"""Programs nobody vouches for, at the authorization endpoint and on the consent page."""

import asyncio
import re
from collections.abc import Callable
from html import unescape
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from httpx2 import Response
from joserfc.jwk import ECKey
from starlette.testclient import TestClient

from audit_log.event import EventType
from authz_server.clients.documents import ClientDocuments, DocumentHosts
from authz_server.store.interactions import AuthorizationRequest
from outbound.fetcher import FetchError
from registry.blocks import BlockKind
from registry.snapshot import AgentEntry
from registry.unattested import UNATTESTED_AGENT
from tests.authz_server.client_site import Site
from tests.authz_server.front_half import (
    ENDPOINT,
    NOTES_ENDPOINT,
    FrontHalf,
    PersonsBrowser,
    agent,
    answer_of,
    client,
    is_consent,
    is_login,
    request_parameters,
)
from tests.authz_server.front_requests import set_agents, set_clients

CLIENT_ID = "https://claude.example/oauth/client.json"
REDIRECT = "https://claude.example/cb"
LOOPBACK = "http://127.0.0.1:53682/callback"


@pytest.fixture
def site(half: FrontHalf) -> Site:
    """`half`, open to foreign clients: they may use notes, which takes bearers; crm takes none."""
    site = Site()
    open_to_strangers(half, site)
    return site


def open_to_strangers(half: FrontHalf, site: Site) -> None:
    snapshot = half.live.snapshot
    notes = msgspec.structs.replace(snapshot.servers["notes"], require_bound=False)
    half.live.snapshot = msgspec.structs.replace(
        snapshot, servers=snapshot.servers | {"notes": notes}
    )
    entry = AgentEntry(UNATTESTED_AGENT, ("foreign",), ("notes/*", "crm/*"), "production", 0)
    set_agents(
        half, {UNATTESTED_AGENT: agent(UNATTESTED_AGENT, entry=entry, providers=(), match={})}
    )
    hosts = DocumentHosts(allowed=frozenset("*"), blocked=frozenset({"evil.example"}))
    documents = ClientDocuments(site, hosts, half.issuer, half.clock)
    half.parts.client_documents = documents  # type: ignore[misc] # frozen in production


def foreign(**changes: Any) -> dict[str, Any]:
    said = {"client_id": CLIENT_ID, "redirect_uri": REDIRECT, "resource": NOTES_ENDPOINT}
    return said | changes


def consent_of(half: FrontHalf, **changes: Any) -> tuple[PersonsBrowser, Response]:
    browser = half.browser()
    page = browser.authorize(**foreign(**changes))
    if is_login(page):
        page = browser.log_in(page)
    assert is_consent(page), page.text
    return browser, page


def linked_answer_of(page: Response) -> dict[str, str]:
    """The parameters of a refusal that a person may take back by a link; no browser goes there."""
    assert page.status_code in {400, 403}, page.text
    assert "location" not in page.headers
    (link,) = re.findall(r'<a href="([^"]+)" rel="noreferrer">', page.text)
    query = parse_qs(urlsplit(unescape(link)).query)
    return {name: values[0] for name, values in query.items()}


def refusal_rules(half: FrontHalf) -> list[str]:
    return [event.reasons[0] for event in half.spool.of(EventType.AUTHORIZE_REFUSED)]


def test_client_that_describes_itself_gets_a_code_after_consent(
    half: FrontHalf, site: Site
) -> None:
    browser, page = consent_of(half)
    answer = answer_of(browser.allow(page))
    assert answer["iss"] == half.issuer
    stored = asyncio.run(half.parts.codes.find(answer["code"]))
    assert stored is not None
    assert (stored.grant.client_id, stored.grant.agent) == (CLIENT_ID, UNATTESTED_AGENT)
    assert stored.grant.document_digest is not None
    assert [url for url, _ in site.asked] == [CLIENT_ID]
    (event,) = half.cuts(EventType.CODE_ISSUED)
    assert (event.client_id, event.agent) == (CLIENT_ID, UNATTESTED_AGENT)


@pytest.mark.requirement("attack-8")
@pytest.mark.parametrize(
    "changes",
    [{"response_type": "token"}, {"prompt": "none"}, {"code_challenge": None}, {"scope": "x"}],
    ids=str,
)
def test_refusal_of_a_client_nobody_declared_is_a_page_until_the_person_saw_who_asks(
    half: FrontHalf, site: Site, changes: dict[str, Any]
) -> None:
    del site
    phish = {
        "client_id": "https://phish.example/c.json",
        "redirect_uri": "https://phish.example/cb",
    }
    browser = half.browser()
    for _ in range(2):  # logged out, then logged in
        page = browser.authorize(**foreign(**phish, state="s-1", **changes))
        answer = linked_answer_of(page)
        assert (answer["state"], answer["iss"]) == ("s-1", half.issuer)
        assert "A program of phish.example asked" in page.text
        assert "Go on to phish.example" in page.text
        assert half.spool.events[-1].type is EventType.AUTHORIZE_REFUSED
        browser.log_in(browser.authorize())


@pytest.mark.requirement("attack-8")
def test_refusal_after_the_person_saw_who_asks_and_of_a_declared_client_is_a_redirect(
    half: FrontHalf, site: Site
) -> None:
    del site
    browser, page = consent_of(half)
    assert answer_of(browser.submit(page, answer="deny"))["error"] == "access_denied"
    assert answer_of(half.browser().authorize(prompt="none"))["error"] == "login_required"
    assert answer_of(half.browser().authorize(scope="x"))["error"] == "invalid_scope"


@pytest.mark.requirement("attack-21")
def test_consent_shows_the_host_before_the_name_a_client_gives_itself(
    half: FrontHalf, site: Site
) -> None:
    site.members = {"client_name": "Your Bank"}
    _, page = consent_of(half)
    assert "<h1>Let a program of claude.example act for you?</h1>" in page.text
    assert page.text.index("claude.example") < page.text.index("Your Bank")
    assert "calls itself “Your Bank”" in page.text
    assert "https://claude.example" in page.text
    assert "by who owns claude.example only" in page.text


@pytest.mark.requirement("attack-21")
def test_login_page_names_the_host_and_not_the_name(half: FrontHalf, site: Site) -> None:
    site.members = {"client_name": "Your Bank"}
    page = half.browser().authorize(**foreign())
    assert is_login(page)
    assert "claude.example" in page.text
    assert "Your Bank" not in page.text


@pytest.mark.requirement("attack-21")
def test_name_in_a_document_is_text_and_never_markup(half: FrontHalf, site: Site) -> None:
    site.members = {"client_name": "<b>Bank</b>"}
    _, page = consent_of(half)
    assert "<b>Bank" not in page.text
    assert "&lt;b&gt;Bank" in page.text


def test_consent_says_what_a_key_proves(half: FrontHalf, site: Site) -> None:
    jwk = ECKey.generate_key("P-256").as_dict(private=False) | {"kid": "k1"}
    with_key = {"token_endpoint_auth_method": "private_key_jwt", "jwks": {"keys": [jwk]}}
    site.members = with_key | {"redirect_uris": ["http://127.0.0.1/callback"]}
    _, page = consent_of(half, redirect_uri=LOOPBACK)
    assert "by a key of claude.example only" in page.text
    assert "(level 1)" in page.text


def test_consent_warns_when_any_local_program_could_be_the_client(
    half: FrontHalf, site: Site
) -> None:
    _, page = consent_of(half)
    assert "which program on this computer" not in page.text
    assert "until then without asking again" in page.text
    assert "Let in by" in page.text
    site.members = {"redirect_uris": ["http://127.0.0.1/callback"]}
    half.clock.now += 400
    _, page = consent_of(half, redirect_uri=LOOPBACK)
    assert "any of them can use this name" in page.text
    assert "you are asked at each login" in page.text
    assert "by its own word only" in page.text


def test_stored_consent_serves_a_client_only_it_can_be(half: FrontHalf, site: Site) -> None:
    del site
    browser, page = consent_of(half)
    browser.allow(page)
    assert "code" in answer_of(browser.authorize(**foreign(prompt="none")))


def test_client_on_loopback_is_asked_about_each_time(half: FrontHalf, site: Site) -> None:
    site.members = {"redirect_uris": ["http://127.0.0.1/callback"]}
    browser, page = consent_of(half, redirect_uri=LOOPBACK)
    assert "code" in answer_of(browser.allow(page))
    again = foreign(redirect_uri=LOOPBACK)
    assert is_consent(browser.authorize(**again))
    assert (
        linked_answer_of(browser.authorize(**again, prompt="none"))["error"] == "consent_required"
    )


def test_consent_for_one_client_is_none_for_another(half: FrontHalf, site: Site) -> None:
    del site
    browser, page = consent_of(half)
    browser.allow(page)
    other = foreign(client_id="https://other.example/c", redirect_uri="https://other.example/cb")
    assert (
        linked_answer_of(browser.authorize(**other, prompt="none"))["error"] == "consent_required"
    )


def test_client_that_changes_its_name_is_asked_about_again(half: FrontHalf, site: Site) -> None:
    browser, page = consent_of(half)
    browser.allow(page)
    site.members = {"client_name": "Another name"}
    half.clock.now += 400
    silent = browser.authorize(**foreign(prompt="none"))
    assert linked_answer_of(silent)["error"] == "consent_required"


@pytest.mark.requirement("attack-21")
def test_document_that_changes_during_the_flow_changes_nothing_of_it(
    half: FrontHalf, site: Site
) -> None:
    browser = half.browser()
    page = browser.authorize(**foreign())
    site.members = {"client_name": "D", "redirect_uris": ["https://claude.example/other"]}
    half.clock.now += 400
    page = browser.log_in(page)
    assert "calls itself “C”" in page.text
    answer = browser.allow(page)
    assert answer.headers["location"].startswith(f"{REDIRECT}?")
    stored = asyncio.run(half.parts.codes.find(answer_of(answer)["code"]))
    assert stored is not None
    fresh = half.browser().authorize(**foreign())
    assert fresh.status_code == 400
    assert refusal_rules(half) == ["authorize.redirect_uri"]


@pytest.mark.requirement("attack-7")
@pytest.mark.parametrize(
    "redirect_uri",
    ["https://evil.example/cb", "https://claude.example/cb/", "https://claude.example/cb?x=1"],
)
def test_redirect_that_the_document_does_not_list_ends_in_a_page(
    half: FrontHalf, site: Site, redirect_uri: str
) -> None:
    del site
    page = half.browser().authorize(**foreign(redirect_uri=redirect_uri))
    assert page.status_code == 400
    assert "location" not in page.headers
    assert refusal_rules(half) == ["authorize.redirect_uri"]


@pytest.mark.requirement("attack-21")
@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (lambda site: setattr(site, "members", {"client_secret": "s"}), "secret"),
        (lambda site: setattr(site, "members", {"client_id": "https://a.example/c"}), "client_id"),
        (lambda site: setattr(site, "members", {"redirect_uris": ["https://e.example/"]}),
         "redirect_origin"),
        (lambda site: setattr(site, "failure", FetchError("address_refused")), "address_refused"),
        (lambda site: setattr(site, "failure", FetchError("redirected")), "redirected"),
        (lambda site: setattr(site, "failure", FetchError("timeout")), "timeout"),
        (lambda site: setattr(site, "failure", FetchError("too_large")), "too_large"),
        (lambda site: setattr(site, "status", 404), "status"),
    ],
)  # fmt: skip
def test_document_that_is_none_ends_in_a_page_and_in_the_audit(
    half: FrontHalf, site: Site, spoil: Callable[[Site], None], rule: str
) -> None:
    spoil(site)
    page = half.browser().authorize(**foreign())
    assert page.status_code == 400
    assert "location" not in page.headers
    assert refusal_rules(half) == [f"client_document.{rule}"]
    assert CLIENT_ID in (half.spool.of(EventType.AUTHORIZE_REFUSED)[0].detail or "")


@pytest.mark.requirement("attack-3")
def test_page_does_not_say_which_names_lead_into_our_network(half: FrontHalf, site: Site) -> None:
    pages = []
    for failure in ("address_refused", "unreachable"):
        site.failure = FetchError(failure)
        pages.append(half.browser().authorize(**foreign()))
        half.clock.now += 60
    nonce = re.compile(r'nonce="[^"]*"')
    private, nowhere = (nonce.sub("", page.text) for page in pages)
    assert private == nowhere
    assert pages[0].status_code == pages[1].status_code
    rules = ["client_document.address_refused", "client_document.unreachable"]
    assert refusal_rules(half) == rules


@pytest.mark.parametrize(
    ("client_id", "rule"),
    [
        ("https://evil.example/c", "client_document.host"),
        ("https://claude.example/a/../c", "client_document.url"),
        ("https://claude.example", "client_document.url"),
        ("http://claude.example/c", "authorize.client"),
    ],
)
def test_url_that_may_not_be_read_is_not_asked(
    half: FrontHalf, site: Site, client_id: str, rule: str
) -> None:
    page = half.browser().authorize(**foreign(client_id=client_id))
    assert page.status_code == 400
    assert site.asked == []
    assert refusal_rules(half) == [rule]


def test_nothing_is_fetched_while_no_agent_is_declared_for_strangers(
    half: FrontHalf, site: Site
) -> None:
    forget_strangers(half)
    page = half.browser().authorize(**foreign())
    assert page.status_code == 400
    assert site.asked == []
    assert refusal_rules(half) == ["authorize.client"]


def forget_strangers(half: FrontHalf) -> None:
    agents = dict(half.live.snapshot.agents)
    del agents[UNATTESTED_AGENT]
    half.live.snapshot = msgspec.structs.replace(half.live.snapshot, agents=agents)


def offered(half: FrontHalf) -> bool:
    http = TestClient(half.app, base_url=half.issuer)
    said = http.get("/.well-known/oauth-authorization-server").json()
    return bool(said["client_id_metadata_document_supported"])


def test_discovery_offers_documents_only_while_an_agent_and_a_host_are_let_in(
    half: FrontHalf, site: Site
) -> None:
    assert offered(half)
    forget_strangers(half)
    assert not offered(half)
    open_to_strangers(half, site)
    assert offered(half)
    nobodys = ClientDocuments(site, DocumentHosts(), half.issuer, half.clock)
    half.parts.client_documents = nobodys  # type: ignore[misc] # frozen in production
    assert not offered(half)


@pytest.mark.requirement("attack-16")
def test_server_that_requires_bound_tokens_is_out_of_reach(half: FrontHalf, site: Site) -> None:
    del site
    answer = linked_answer_of(half.browser().authorize(**foreign(resource=ENDPOINT)))
    assert answer["error"] == "invalid_target"
    assert "bound to a key" in answer["error_description"]


@pytest.mark.parametrize(
    ("kind", "subject"),
    [
        (BlockKind.CLIENT, CLIENT_ID),
        (BlockKind.AGENT, UNATTESTED_AGENT),
        (BlockKind.AGENT_GROUP, "foreign"),
    ],
)
def test_client_is_cut_off_by_its_url_its_agent_or_its_group(
    half: FrontHalf, site: Site, kind: BlockKind, subject: str
) -> None:
    del site
    half.block(kind, subject)
    half.clock.now += 10
    answer = linked_answer_of(half.browser().authorize(**foreign()))
    assert answer["error"] == "access_denied"
    half.restore(kind, subject)
    half.clock.now += 10
    assert is_login(half.browser().authorize(**foreign()))


def test_person_outside_the_agents_groups_is_told_and_gives_nothing(
    half: FrontHalf, site: Site
) -> None:
    del site
    browser = half.browser()
    page = browser.log_in(browser.authorize(**foreign()), "bob")
    assert page.status_code == 403
    assert "claude.example has been given nothing" in page.text


def test_declared_public_client_of_an_agent_gets_a_code(half: FrontHalf, site: Site) -> None:
    del site
    desktop = client(
        "desktop",
        "declared",
        agent=UNATTESTED_AGENT,
        display_name="Desktop",
        authentication=("none",),
        redirect_uris=(LOOPBACK,),
    )
    set_clients(half, {"desktop": desktop})
    browser, page = consent_of(half, client_id="desktop", redirect_uri=LOOPBACK)
    assert "<h1>Let a program called Desktop act for you?</h1>" in page.text
    assert "code" in answer_of(browser.allow(page))


def test_declared_client_weaker_than_its_agent_gets_nothing(half: FrontHalf, site: Site) -> None:
    del site
    redirect = "https://app.example.com/cb"
    wanted = foreign(client_id="web-portal", redirect_uri=redirect, resource=ENDPOINT)
    assert answer_of(half.browser().authorize(**wanted))["error"] == "invalid_target"


def test_request_in_progress_from_before_this_release_is_read() -> None:
    request = msgspec.json.encode(request_of())
    old = msgspec.json.decode(request)
    del old["document"]
    assert msgspec.convert(old, AuthorizationRequest) == request_of()


def request_of() -> AuthorizationRequest:
    sent = request_parameters()
    return AuthorizationRequest(
        client_id=sent["client_id"],
        agent="support-bot",
        server="crm",
        redirect_uri=sent["redirect_uri"],
        state=None,
        code_challenge=sent["code_challenge"],
        resource=sent["resource"],
        scope="mcp:tools",
        tools=("get_account",),
        nonce=None,
        dpop_jkt=None,
        fresh_login=False,
        ask_consent=False,
        silent=False,
        login_not_before=0,
    )


@pytest.mark.requirement("client-table")
@pytest.mark.parametrize("scope", ["mcp:tools", "mcp:tools offline_access", None])
def test_document_that_names_the_refresh_grant_asks_for_a_refresh_token(
    half: FrontHalf, site: Site, scope: str | None
) -> None:
    """The client of 2025 asks for the scope of the challenge, and cannot ask for more."""
    site.members = {"grant_types": ["authorization_code", "refresh_token"]}
    browser, page = consent_of(half, scope=scope)
    assert "Stays connected" in page.text
    stored = asyncio.run(half.parts.codes.find(answer_of(browser.allow(page))["code"]))
    assert stored is not None
    assert stored.grant.scope == "mcp:tools offline_access"


@pytest.mark.requirement("client-table")
def test_document_that_does_not_name_it_asks_for_none(half: FrontHalf, site: Site) -> None:
    site.members = {"grant_types": ["authorization_code"]}
    browser, page = consent_of(half, scope="mcp:tools")
    assert "Stays connected" not in page.text
    stored = asyncio.run(half.parts.codes.find(answer_of(browser.allow(page))["code"]))
    assert stored is not None
    assert stored.grant.scope == "mcp:tools"


@pytest.mark.requirement("client-table")
def test_document_that_names_it_makes_no_wrong_scope_right(half: FrontHalf, site: Site) -> None:
    site.members = {"grant_types": ["refresh_token"]}
    answer = linked_answer_of(half.browser().authorize(**foreign(scope="offline_access")))
    assert answer["error"] == "invalid_scope"
