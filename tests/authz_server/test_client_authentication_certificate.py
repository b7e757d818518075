"""An X.509-SVID on the connection as client authentication, at the listener that takes them."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx2
import pytest

from authz_server.app import create_mtls_app
from idp_connectors.workload.tls_peer import TLS_PEER_EXTENSION
from registry.blocks import BlockKind
from tests.authz_server.assertion_clients import assert_no_client
from tests.authz_server.back_half import (
    CRM,
    NOW,
    TOKEN_URI,
    Authority,
    Keyholder,
    declare,
    error_of,
    payload_of,
    start_authority,
)
from tests.idp_connectors.trust_domains import TrustDomain
from token_exchange.token_types import CLIENT_ASSERTION_JWT_SPIFFE, GRANT_CLIENT_CREDENTIALS

pytestmark = [pytest.mark.anyio, pytest.mark.requirement("spiffe-x509-svid")]

MTLS = "https://as.example.com:8443"
MTLS_TOKEN_URI = f"{MTLS}/oauth/token"
PROD = TrustDomain("prod.example.com")
LAB = TrustDomain("lab.example.com")


@dataclass
class Listener:
    """The listener for client certificates, and the server behind it."""

    server: Authority

    async def ask(
        self,
        certificates: list[bytes],
        *,
        keyholder: Keyholder | None = None,
        uri: str = MTLS_TOKEN_URI,
        path: str = "/oauth/token",
        **changes: Any,
    ) -> httpx2.Response:
        """A token request over a connection whose peer showed these certificates."""
        app = create_mtls_app(self.server.parts)

        async def with_peer(scope: Any, receive: Any, send: Any) -> None:
            extensions = {TLS_PEER_EXTENSION: tuple(certificates)}
            await app({**scope, "extensions": extensions}, receive, send)

        form = {"grant_type": GRANT_CLIENT_CREDENTIALS, "resource": CRM, **changes}
        headers = {
            "content-type": "application/x-www-form-urlencoded",
            "dpop": (keyholder or Keyholder(self.server)).proof(uri),
        }
        transport = httpx2.ASGITransport(app=with_peer)
        async with httpx2.AsyncClient(transport=transport, base_url=MTLS) as http:
            return await http.post(path, content=urlencode(form).encode(), headers=headers)

    async def refused(self, certificates: list[bytes], rule: str, **changes: Any) -> None:
        answer = await self.ask(certificates, **changes)
        assert_no_client(self.server, answer, rule)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("bundles") / "prod.json"
    file.write_bytes(PROD.bundle())
    return file


@pytest.fixture
async def listener(anyio_backend: str, tmp_path: Path, bundle: Path) -> AsyncIterator[Listener]:
    del anyio_backend
    declared = [
        declare(
            "TrustProvider",
            "prod",
            type="spiffe",
            trust_domain=PROD.name,
            bundle_file=str(bundle),
        ),
        declare(
            "Agent",
            "svid-bot",
            owner="support@example.com",
            attestation={
                "providers": ["prod"],
                "match": {"spiffe.path": "/bot"},
                "minimum_level": 2,
            },
            tools=["crm/get_*"],
        ),
    ]
    server = await start_authority(tmp_path, declared=declared, mtls_base_url=MTLS)
    yield Listener(server)
    server.database.close()


async def test_x509_svid_names_its_agent_and_the_token_is_bound_by_dpop(
    listener: Listener,
) -> None:
    keyholder = Keyholder(listener.server)
    answer = await listener.ask(PROD.x509_svid(), keyholder=keyholder)
    assert answer.status_code == 200, answer.text
    assert answer.json()["token_type"] == "DPoP"
    claims = payload_of(answer.json()["access_token"])
    assert claims["agent"] == "svid-bot"
    assert (claims["attn"]["method"], claims["attn"]["level"]) == ("x509-svid", 2)
    assert claims["cnf"] == {"jkt": keyholder.thumbprint}
    assert listener.server.spool.events[-1].workload_svid == "spiffe://prod.example.com/bot"


@pytest.mark.parametrize("client_id", ["svid-bot", "spiffe://prod.example.com/bot"])
async def test_certificates_client_may_name_itself(listener: Listener, client_id: str) -> None:
    assert (await listener.ask(PROD.x509_svid(), client_id=client_id)).status_code == 200
    await listener.refused(PROD.x509_svid(), "client.id", client_id="batch-bot")


@pytest.mark.requirement("attack-5")
async def test_wrong_certificate_is_refused(listener: Listener) -> None:
    await listener.refused(LAB.x509_svid(), "client.issuer")
    await listener.refused(LAB.x509_svid(uris=["spiffe://prod.example.com/bot"]), "spiffe.chain")
    await listener.refused(PROD.x509_svid("/other"), "agent.unknown")
    await listener.refused(PROD.x509_svid(ends=NOW - 1), "spiffe.chain")
    await listener.refused(PROD.x509_svid(uris=[]), "spiffe.subject")
    await listener.refused([b"junk"], "spiffe.certificate")


async def test_certificate_is_judged_at_every_request_of_its_connection(
    listener: Listener,
) -> None:
    svid = PROD.x509_svid(ends=NOW + 60)
    assert (await listener.ask(svid)).status_code == 200
    listener.server.clock.now += 61
    await listener.server.parts.live.refresh()
    await listener.refused(svid, "spiffe.chain")


async def test_token_ends_with_its_certificate(listener: Listener) -> None:
    answer = await listener.ask(PROD.x509_svid(ends=NOW + 120))
    assert answer.json()["expires_in"] == 120


@pytest.mark.requirement("attack-6")
async def test_certificate_and_assertion_are_two_authentications(listener: Listener) -> None:
    answer = await listener.ask(
        PROD.x509_svid(),
        client_assertion_type=CLIENT_ASSERTION_JWT_SPIFFE,
        client_assertion=PROD.jwt_svid(),
    )
    assert error_of(answer) == "invalid_request"
    assert listener.server.refusals()[-1].reasons == ("client.several",)


async def test_connection_without_a_certificate_is_no_agent(listener: Listener) -> None:
    await listener.refused([], "client.method", client_id="svid-bot")


@pytest.mark.requirement("RFC9449-4.3")
async def test_proof_is_for_the_uri_of_this_listener(listener: Listener) -> None:
    answer = await listener.ask(PROD.x509_svid(), uri=TOKEN_URI)
    assert error_of(answer) == "invalid_dpop_proof"
    assert (await listener.ask(PROD.x509_svid())).status_code == 200


@pytest.mark.requirement("attack-28")
async def test_certificate_from_before_a_kill_is_refused_after_restore(
    listener: Listener,
) -> None:
    before = PROD.x509_svid()
    await listener.server.block(BlockKind.AGENT, "svid-bot")
    assert error_of(await listener.ask(before)) == "invalid_grant"
    await listener.server.restore(BlockKind.AGENT, "svid-bot")
    listener.server.clock.now += 2
    assert error_of(await listener.ask(before)) == "invalid_grant"
    assert (await listener.ask(PROD.x509_svid(begins=NOW + 2))).status_code == 200


@pytest.mark.parametrize(
    "path", ["/", "/healthz", "/oauth/authorize", "/control/v1/enrol", "/oauth/token/"]
)
async def test_listener_serves_the_token_endpoint_alone(listener: Listener, path: str) -> None:
    assert (await listener.ask(PROD.x509_svid(), path=path)).status_code == 404


async def test_metadata_says_where_certificates_are_taken(listener: Listener) -> None:
    async with listener.server.http() as http:
        said = (await http.get("/.well-known/oauth-authorization-server")).json()
    assert said["mtls_endpoint_aliases"] == {"token_endpoint": MTLS_TOKEN_URI}
    assert "spiffe_x509" in said["token_endpoint_auth_methods_supported"]
    # RFC 8705 §3.3: what no gateway checks is not promised.
    assert "tls_client_certificate_bound_access_tokens" not in said


async def test_metadata_of_a_server_without_that_listener_promises_none(
    authority: Authority,
) -> None:
    async with authority.http() as http:
        said = (await http.get("/.well-known/oauth-authorization-server")).json()
    assert "mtls_endpoint_aliases" not in said
    assert said["token_endpoint_auth_methods_supported"] == [
        "private_key_jwt",
        "spiffe_jwt",
        "none",
    ]
