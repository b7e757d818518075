"""Programs nobody vouches for, at the token endpoint: bearers, keys, families, others' codes."""

import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest

from audit_log.event import EventType
from authz_server.clients.documents import ClientDocuments, DocumentHosts
from authz_server.clients.metadata_document import ClientDocument
from authz_server.requested_access import ServerAtEndpoint, shown_tools
from authz_server.store.consents import Consent, grant_in
from outbound.fetcher import FetchError
from registry.blocks import BlockKind
from registry.unattested import UNATTESTED_AGENT
from tests.authz_server.back_half import (
    CRM,
    ISSUER,
    TOKEN_URI,
    Authority,
    Clock,
    Keyholder,
    declare,
    error_of,
    payload_of,
    start_authority,
    tool,
)
from tests.authz_server.client_site import Site
from tests.authz_server.cuts import cuts_in
from tests.authz_server.front_half import Accounts
from tests.authz_server.login_sessions import logged_in_at
from tests.authz_server.test_token_code import alice, code_form, new_code
from tests.token_exchange.signing import sign
from token_exchange.claims import AuthorizationDetail
from token_exchange.token_types import CLIENT_ASSERTION_JWT_BEARER

pytestmark = pytest.mark.anyio

WIKI = "http://127.0.0.1:8703/wiki/mcp"
CLIENT_ID = "https://claude.example/oauth/client.json"
OTHER_ID = "https://other.example/client.json"
SCOPE = "mcp:tools offline_access"


@dataclass
class World:
    """A server with one MCP server that takes bearers, and one that does not (crm)."""

    authority: Authority
    site: Site

    async def document(self, client_id: str = CLIENT_ID) -> ClientDocument:
        found = await self.authority.parts.client_documents.document(client_id)
        assert isinstance(found, ClientDocument), found
        return found

    async def code(self, client_id: str = CLIENT_ID, **changes: Any) -> str:
        """A code after Alice's login and consent, as the front half stores it."""
        parts, now = self.authority.parts, self.authority.now
        is_document = client_id.startswith("https:")
        client = (
            (await self.document(client_id)).client
            if is_document
            else parts.live.snapshot.clients[client_id]
        )
        snapshot = parts.live.snapshot
        agent, server = snapshot.agents[client.agent or ""], snapshot.servers["wiki"]
        endpoint = ServerAtEndpoint(server, agent, client)
        session = (await logged_in_at(parts.sessions, "usr_alice", alice(now), now)).session
        consent = Consent(
            gid=f"grt_{secrets.token_hex(8)}",
            sub="usr_alice",
            agent=agent.entry.name,
            server="wiki",
            tools=shown_tools(endpoint, ("read",)),
            scope=SCOPE,
            created_at=now,
            expires_at=now + 86_400,
        )
        await self.authority.database.write(lambda each: grant_in(each, consent))
        fields = {
            "client_id": client_id,
            "agent": agent.entry.name,
            "resource": WIKI,
            "scope": SCOPE,
            "nonce": None,
            "details": (AuthorizationDetail("mcp_tool", "wiki", ("read",), ("call",)),),
            "sid": session.sid,
            "session_created_at": session.created_at,
            "gid": consent.gid,
            "document_digest": client.document_digest,
        }
        return await new_code(self.authority, **(fields | changes))

    async def post(self, form: dict[str, Any], key: Keyholder | None = None) -> httpx2.Response:
        sent = {name: value for name, value in form.items() if value is not None}
        proof = {} if key is None else {"dpop": key.proof(TOKEN_URI)}
        return await self.authority.post(sent, proof)

    async def redeem(
        self,
        code: str,
        client_id: str | None = CLIENT_ID,
        key: Keyholder | None = None,
        **more: Any,
    ) -> httpx2.Response:
        return await self.post(code_form(code, client_id=client_id) | more, key)

    async def refresh(
        self,
        token: str,
        client_id: str | None = CLIENT_ID,
        key: Keyholder | None = None,
        **more: Any,
    ) -> httpx2.Response:
        form = {"grant_type": "refresh_token", "refresh_token": token, "client_id": client_id}
        return await self.post(form | more, key)

    def rules(self) -> list[str]:
        return [event.reasons[0] for event in self.authority.spool.of(EventType.TOKEN_REFUSED)]


@pytest.fixture
async def world(anyio_backend: str, tmp_path: Path) -> AsyncIterator[World]:
    del anyio_backend
    wiki = declare(
        "McpServer",
        "wiki",
        url="http://127.0.0.1:9004/mcp",
        credential={"provider": "wiki-token"},
        approve="first_seen",
        require_bound=False,
    )
    strangers = declare(
        "Agent",
        UNATTESTED_AGENT,
        owner="platform@example.com",
        acts_for={"groups": ["local/support"]},
        groups=["foreign"],
        clients=["desktop"],
        tools=["wiki/*"],
    )
    desktop = declare(
        "OAuthClient",
        "desktop",
        display_name="Desktop",
        redirect_uris=["http://127.0.0.1:5000/callback"],
    )
    helper = declare(
        "Agent",
        "tray-helper",
        owner="platform@example.com",
        acts_for={"groups": ["local/support"]},
        clients=["tray"],
        tools=["crm/get_account", "wiki/read"],
    )
    tray = declare(
        "OAuthClient",
        "tray",
        display_name="Tray",
        redirect_uris=["http://127.0.0.1:5000/callback"],
    )
    declared = [
        helper,
        tray,
        declare("CredentialProvider", "wiki-token", type="issued_token"),
        wiki,
        declare("Gateway", "third", base_url="http://127.0.0.1:8703", servers=["wiki"]),
        desktop,
        strangers,
    ]
    authority = await start_authority(tmp_path, declared=declared)
    await authority.parts.catalogue.observe("wiki", [tool("read")])
    await authority.parts.live.refresh()
    site, clock, accounts = Site(), Clock(), Accounts()
    accounts.groups["Alice"] = ("local/support",)
    authority.clock = clock
    hosts = DocumentHosts(allowed=frozenset("*"))
    parts = replace(
        authority.parts,
        clock=clock,
        client_documents=ClientDocuments(site, hosts, ISSUER, clock),
        person_logins=lambda: {"local": accounts},
    )
    yield World(Authority(tmp_path, parts, authority.database, clock), site)
    authority.database.close()


async def test_bearer_names_person_client_and_the_agent_of_strangers(world: World) -> None:
    answer = await world.redeem(await world.code())
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["token_type"] == "Bearer"
    claims = payload_of(body["access_token"])
    assert "cnf" not in claims
    assert claims["act"] == {
        "iss": ISSUER,
        "sub": CLIENT_ID,
        "sub_profile": "ai_agent",
        "agent": UNATTESTED_AGENT,
    }
    assert (claims["sub"], claims["client_id"]) == ("usr_alice", CLIENT_ID)
    assert (claims["attn"]["level"], claims["attn"]["method"]) == (1, "client_metadata")
    assert claims["attn"]["evidence"] == (await world.document()).client.document_digest
    (event,) = world.authority.cuts(EventType.TOKEN_ISSUED)
    assert (event.client_id, event.agent) == (CLIENT_ID, UNATTESTED_AGENT)
    assert event.evidence == {"client.name": "C", "client.authentication": "none"}


async def test_declared_public_client_of_the_agent_gets_a_bearer_of_level_0(world: World) -> None:
    answer = await world.redeem(await world.code("desktop"), "desktop")
    claims = payload_of(answer.json()["access_token"])
    assert claims["act"]["sub"] == "desktop"
    assert (claims["attn"]["level"], claims["attn"]["method"]) == (0, "declared_client")


async def test_client_that_proves_a_key_gets_a_token_bound_to_it(world: World) -> None:
    key = Keyholder(world.authority)
    answer = await world.redeem(await world.code(), key=key)
    assert answer.json()["token_type"] == "DPoP"
    assert payload_of(answer.json()["access_token"])["cnf"] == {"jkt": key.thumbprint}


async def test_code_of_a_client_that_promised_a_key_is_no_bearer(world: World) -> None:
    key = Keyholder(world.authority)
    code = await world.code(dpop_jkt=key.thumbprint)
    assert error_of(await world.redeem(code)) == "invalid_dpop_proof"
    assert (await world.redeem(code, key=key)).status_code == 200


@pytest.mark.requirement("attack-15")
async def test_bearer_for_a_server_that_requires_bound_tokens_is_refused(world: World) -> None:
    details = (AuthorizationDetail("mcp_tool", "crm", ("get_account",), ("call",)),)
    code = await world.code("tray", resource=CRM, details=details)
    answer = await world.redeem(code, "tray")
    assert error_of(answer) == "invalid_dpop_proof"
    assert "bound to a key" in answer.json()["error_description"]
    assert world.rules() == ["token.not_bound"]
    bound = await world.redeem(code, "tray", key=Keyholder(world.authority))
    assert bound.json()["token_type"] == "DPoP"
    assert payload_of(bound.json()["access_token"])["act"]["agent"] == "tray-helper"


@pytest.mark.requirement("attack-15")
async def test_stranger_with_a_key_reaches_no_server_that_requires_bound_tokens(
    world: World,
) -> None:
    details = (AuthorizationDetail("mcp_tool", "crm", ("get_account",), ("call",)),)
    code = await world.code(resource=CRM, details=details)
    assert error_of(await world.redeem(code, key=Keyholder(world.authority))) == "invalid_grant"
    assert world.rules() == ["code.no_longer_allowed"]


@pytest.mark.requirement("attack-9")
async def test_code_of_another_client_is_refused_and_stays_good(world: World) -> None:
    code = await world.code()
    assert error_of(await world.redeem(code, OTHER_ID)) == "invalid_client"
    assert error_of(await world.redeem(code, "desktop")) == "invalid_grant"
    assert error_of(await world.redeem(code, "support-bot")) == "invalid_client"
    assert (await world.redeem(code)).status_code == 200


@pytest.mark.requirement("attack-9")
async def test_code_used_twice_cuts_off_what_it_yielded(world: World) -> None:
    code = await world.code()
    first = payload_of((await world.redeem(code)).json()["access_token"])
    assert error_of(await world.redeem(code)) == "invalid_grant"
    (event,) = cuts_in(world.authority.database, EventType.BLOCKED)
    assert event.object_ref == f"inv/{first['inv']}"


@pytest.mark.requirement("attack-3")
async def test_stranger_makes_the_token_endpoint_fetch_nothing(world: World) -> None:
    for form in (
        {"grant_type": "authorization_code", "code": "made-up", "client_id": CLIENT_ID},
        {"grant_type": "refresh_token", "refresh_token": "made-up", "client_id": CLIENT_ID},
        {"grant_type": "client_credentials", "client_id": CLIENT_ID, "resource": WIKI},
    ):
        assert error_of(await world.post(form)) == "invalid_client"
    assert world.site.asked == []


@pytest.mark.requirement("attack-21")
async def test_document_changed_since_the_person_was_asked_is_refused(world: World) -> None:
    world.site.headers["cache-control"] = "no-store"
    code = await world.code(created_at=world.authority.now + 61)
    world.site.members = {"redirect_uris": ["https://claude.example/other"]}
    world.authority.clock.now += 61
    answer = await world.redeem(code)
    assert error_of(answer) == "invalid_grant"
    assert "changed" in answer.json()["error_description"]
    assert world.rules() == ["code.document_changed"]
    world.site.members = {}
    world.authority.clock.now += 61
    assert (await world.redeem(await world.code())).status_code == 200


@pytest.mark.requirement("attack-21")
@pytest.mark.requirement("attack-21")
async def test_another_server_reads_the_document_for_itself(world: World) -> None:
    code = await world.code()
    site, parts = Site(), world.authority.parts
    hosts = DocumentHosts(allowed=frozenset("*"))
    own = ClientDocuments(site, hosts, ISSUER, parts.clock)
    authority = world.authority
    other = Authority(
        authority.directory,
        replace(parts, client_documents=own),
        authority.database,
        authority.clock,
    )
    elsewhere = World(other, site)
    assert (await elsewhere.redeem(code)).status_code == 200
    assert [url for url, _ in site.asked] == [CLIENT_ID]
    site.members = {"client_name": "D"}
    authority.clock.now += 301
    late = await world.code(created_at=authority.now, document_digest="sha-256:before")
    assert error_of(await elsewhere.redeem(late)) == "invalid_grant"
    assert world.rules() == ["code.document_changed"]


async def test_site_that_is_away_for_a_moment_is_a_503_and_burns_nothing(world: World) -> None:
    world.site.headers["cache-control"] = "no-store"
    code = await world.code(created_at=world.authority.now + 61)
    world.site.failure = FetchError("unreachable")
    world.authority.clock.now += 61
    assert error_of(await world.redeem(code)) == "temporarily_unavailable"
    world.site.failure = None
    world.authority.clock.now += 15
    assert (await world.redeem(code)).status_code == 200


@pytest.mark.requirement("attack-21")
async def test_document_withdrawn_since_the_person_was_asked_is_refused(world: World) -> None:
    world.site.headers["cache-control"] = "no-store"
    code = await world.code(created_at=world.authority.now + 61)
    world.site.status = 404
    world.authority.clock.now += 61
    assert error_of(await world.redeem(code)) == "invalid_client"
    assert world.rules() == ["client_document.status"]


@pytest.mark.requirement("RFC6749-6")
async def test_refresh_token_renews_the_bearer_and_rotates(world: World) -> None:
    first = (await world.redeem(await world.code())).json()
    second = await world.refresh(first["refresh_token"])
    assert second.status_code == 200, second.text
    before, after = (payload_of(body["access_token"]) for body in (first, second.json()))
    assert before["jti"] != after["jti"]
    assert (before["act"], before["inv"]) == (after["act"], after["inv"])
    assert "cnf" not in after
    assert second.json()["refresh_token"] != first["refresh_token"]


@pytest.mark.requirement("attack-14")
async def test_refresh_token_of_another_client_is_refused_and_stays_good(world: World) -> None:
    token = (await world.redeem(await world.code())).json()["refresh_token"]
    assert error_of(await world.refresh(token, OTHER_ID)) == "invalid_client"
    assert error_of(await world.refresh(token, "desktop")) == "invalid_grant"
    assert (await world.refresh(token)).status_code == 200


@pytest.mark.requirement("attack-14")
async def test_refresh_token_used_twice_ends_the_family(world: World) -> None:
    token = (await world.redeem(await world.code())).json()["refresh_token"]
    second = (await world.refresh(token)).json()["refresh_token"]
    assert error_of(await world.refresh(token)) == "invalid_grant"
    assert error_of(await world.refresh(second)) == "invalid_grant"
    assert world.rules() == ["refresh.replayed", "refresh.ended"]


@pytest.mark.requirement("attack-15")
async def test_family_of_a_key_yields_no_bearer_and_one_of_bearers_no_key(world: World) -> None:
    key = Keyholder(world.authority)
    bound = (await world.redeem(await world.code(), key=key)).json()["refresh_token"]
    free = (await world.redeem(await world.code())).json()["refresh_token"]
    assert error_of(await world.refresh(bound)) == "invalid_grant"
    assert error_of(await world.refresh(free, key=key)) == "invalid_grant"
    assert world.rules() == ["refresh.key"] * 2
    assert (await world.refresh(bound, key=key)).json()["token_type"] == "DPoP"
    assert (await world.refresh(free)).json()["token_type"] == "Bearer"


@pytest.mark.requirement("attack-21")
@pytest.mark.parametrize(
    "members",
    [{"client_name": "Your Bank"}, {"redirect_uris": ["http://127.0.0.1/callback"]}],
)
async def test_client_that_is_another_than_the_person_saw_is_not_renewed(
    world: World, members: dict[str, Any]
) -> None:
    token = (await world.redeem(await world.code())).json()["refresh_token"]
    world.site.members = members
    world.authority.clock.now += 301
    assert error_of(await world.refresh(token)) == "invalid_grant"
    world.site.members = {"logo_uri": "https://claude.example/new.png"}
    world.authority.clock.now += 301
    assert (await world.refresh(token)).status_code == 200


@pytest.mark.parametrize(
    ("kind", "subject"),
    [
        (BlockKind.CLIENT, CLIENT_ID),
        (BlockKind.AGENT, UNATTESTED_AGENT),
        (BlockKind.AGENT_GROUP, "foreign"),
        (BlockKind.SUBJECT, "usr_alice"),
    ],
)
async def test_killed_client_gets_nothing_and_restored_only_anew(
    world: World, kind: BlockKind, subject: str
) -> None:
    token = (await world.redeem(await world.code())).json()["refresh_token"]
    await world.authority.block(kind, subject)
    world.authority.clock.now += 2
    assert error_of(await world.refresh(token)) == "invalid_grant"
    await world.authority.restore(kind, subject)
    world.authority.clock.now += 2
    assert error_of(await world.refresh(token)) == "invalid_grant"
    assert (await world.redeem(await world.code())).status_code == 200


def assertion(key: Keyholder, header: dict[str, Any] | None = None, **changes: Any) -> str:
    now = key.authority.now
    claims = {
        "iss": CLIENT_ID,
        "sub": CLIENT_ID,
        "aud": ISSUER,
        "iat": now,
        "exp": now + 300,
        "jti": secrets.token_hex(16),
    } | changes
    kept = {name: value for name, value in claims.items() if value is not None}
    return sign({"alg": "ES256", "typ": "JWT", "kid": "k1"} | (header or {}), kept, key.key)


def with_assertion(value: str) -> dict[str, Any]:
    return {
        "client_assertion": value,
        "client_assertion_type": CLIENT_ASSERTION_JWT_BEARER,
    }


def publish_key(world: World, key: Keyholder, *, at_uri: bool = False) -> None:
    """The client's document says that it authenticates with this key."""
    world.site.members = {"token_endpoint_auth_method": "private_key_jwt"} | (
        {"jwks_uri": "https://claude.example/jwks"}
        if at_uri
        else {"jwks": {"keys": [key.jwk | {"kid": "k1"}]}}
    )


@pytest.mark.requirement("CIMD-4")
async def test_client_with_a_key_in_its_document_proves_it(world: World) -> None:
    key = Keyholder(world.authority)
    publish_key(world, key)
    code = await world.code()
    assert error_of(await world.redeem(code)) == "invalid_client"  # its word alone is not enough
    once = with_assertion(assertion(key))
    answer = await world.redeem(code, None, **once)
    assert answer.status_code == 200, answer.text
    assert payload_of(answer.json()["access_token"])["attn"]["level"] == 1
    replayed = await world.redeem(await world.code(), None, **once)
    assert error_of(replayed) == "invalid_client"
    assert world.rules() == ["client.method", "replay.client_assertion"]


@pytest.mark.requirement("attack-5")
@pytest.mark.parametrize(
    ("header", "changes", "rule"),
    [
        ({}, {"aud": TOKEN_URI}, "jwt.audience"),
        ({}, {"aud": [ISSUER, TOKEN_URI]}, "jwt.audience"),
        ({}, {"sub": OTHER_ID}, "client.subject"),
        ({}, {"exp": 1}, "jwt.expired"),
        ({}, {"exp": None}, "jwt.missing"),
        ({}, {"jti": None}, "jwt.missing"),
        ({"kid": "k2"}, {}, "jwt.key"),
        ({"typ": "at+jwt"}, {}, "jwt.type"),
        ({"alg": "none"}, {}, "jwt.algorithm"),
    ],
)
async def test_assertion_that_is_not_for_us_now_is_refused(
    world: World, header: dict[str, Any], changes: dict[str, Any], rule: str
) -> None:
    key = Keyholder(world.authority)
    publish_key(world, key)
    code = await world.code()
    spoiled = with_assertion(assertion(key, header, **changes))
    assert error_of(await world.redeem(code, None, **spoiled)) == "invalid_client"
    assert world.rules() == [rule]
    answer = await world.redeem(code, None, **with_assertion(assertion(key)))
    assert answer.status_code == 200, answer.text


@pytest.mark.requirement("CIMD-4")
async def test_client_with_keys_at_its_own_origin_proves_one_of_them(world: World) -> None:
    key, jwks_uri = Keyholder(world.authority), "https://claude.example/jwks"
    publish_key(world, key, at_uri=True)
    code = await world.code()
    world.site.files[jwks_uri] = b'{"keys": []}'
    proved = with_assertion(assertion(key))
    assert error_of(await world.redeem(code, None, **proved)) == "invalid_client"
    assert world.rules() == ["jwt.key"]
    world.site.files[jwks_uri] = msgspec.json.encode({"keys": [key.jwk | {"kid": "k1"}]})
    world.authority.clock.now += 11
    answer = await world.redeem(code, None, **with_assertion(assertion(key)))
    assert answer.status_code == 200, answer.text


@pytest.mark.requirement("attack-5")
async def test_assertion_by_another_key_is_refused(world: World) -> None:
    publish_key(world, Keyholder(world.authority))
    forged = with_assertion(assertion(Keyholder(world.authority)))
    assert error_of(await world.redeem(await world.code(), None, **forged)) == "invalid_client"
    assert world.rules() == ["jwt.signature"]
