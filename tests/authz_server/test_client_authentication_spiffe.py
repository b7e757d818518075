"""A JWT-SVID as client authentication: which agent it names, and what a stolen one yields."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from authz_server.issuing.access_token import agent_actor
from idp_connectors.evidence import Evidence
from idp_connectors.workload.spiffe import SpiffeSettings, SpiffeVerifier
from idp_connectors.workload.spiffe_bundle_sources import BundleFile
from registry.blocks import BlockKind
from registry.objects import DeclaredObject
from tests.authz_server.assertion_clients import AssertionClients
from tests.authz_server.back_half import (
    CRM,
    ISSUER,
    NOW,
    Keyholder,
    declare,
    error_of,
    payload_of,
    start_authority,
)
from tests.idp_connectors.trust_domains import RSA, TrustDomain, sign_as, sign_by_secret
from token_exchange.claims import Refusal
from token_exchange.token_types import (
    CLIENT_ASSERTION_JWT_BEARER,
    CLIENT_ASSERTION_JWT_SPIFFE,
    GRANT_CLIENT_CREDENTIALS,
)

pytestmark = pytest.mark.anyio

PROD = TrustDomain("prod.example.com")
LAB = TrustDomain("lab.example.com")
NOWHERE = TrustDomain("nowhere.example.com")


def agent(name: str, provider: str, **match: str) -> DeclaredObject:
    return declare(
        "Agent",
        name,
        owner="support@example.com",
        attestation={"providers": [provider], "match": match, "minimum_level": 2},
        tools=["crm/get_*"],
        groups=["support-agents"],
    )


@dataclass
class Spiffe(AssertionClients):
    """A server that knows two trust domains, and an agent in the first."""

    assertion_type = CLIENT_ASSERTION_JWT_SPIFFE
    directory: Path

    async def refused(self, assertion: str, rule: str, **changes: Any) -> httpx2.Response:
        """This one is refused for that reason, and nothing of it is told."""
        answer = await super().refused(assertion, rule, **changes)
        assert answer.json()["error_description"] == "Client authentication failed."
        return answer


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the bundles are; every test finds them as they were."""
    return tmp_path_factory.mktemp("bundles")


@pytest.fixture
async def spiffe(anyio_backend: str, tmp_path: Path, bundles: Path) -> AsyncIterator[Spiffe]:
    del anyio_backend
    declared = [
        agent("svid-bot", "prod", **{"spiffe.id": "spiffe://prod.example.com/bot"}),
        agent("lab-bot", "lab", **{"spiffe.path": "/bot"}),
    ]
    for name, domain in (("prod", PROD), ("lab", LAB)):
        path = bundles / f"{name}.json"
        path.write_bytes(domain.bundle())
        declared.append(
            declare(
                "TrustProvider",
                name,
                type="spiffe",
                trust_domain=domain.name,
                bundle_file=str(path),
            )
        )
    server = await start_authority(tmp_path, declared=declared)
    yield Spiffe(server, bundles)
    server.database.close()


@pytest.mark.requirement("spiffe-jwt-svid")
@pytest.mark.parametrize("kind", [CLIENT_ASSERTION_JWT_SPIFFE, CLIENT_ASSERTION_JWT_BEARER])
async def test_jwt_svid_names_its_agent(spiffe: Spiffe, kind: str) -> None:
    keyholder = Keyholder(spiffe.server)
    svid = PROD.jwt_svid()
    answer = await spiffe.ask(svid, client_assertion_type=kind, keyholder=keyholder)
    assert answer.status_code == 200, answer.text
    claims = payload_of(answer.json()["access_token"])
    assert (claims["client_id"], claims["agent"]) == ("svid-bot", "svid-bot")
    assert (claims["attn"]["method"], claims["attn"]["level"]) == ("jwt-svid", 2)
    assert claims["cnf"] == {"jkt": keyholder.thumbprint}
    event = spiffe.server.spool.events[-1]
    assert event.workload_svid == "spiffe://prod.example.com/bot"
    assert event.evidence["spiffe.id"] == "spiffe://prod.example.com/bot"
    assert event.evidence["spiffe.trust_domain"] == "prod.example.com"
    assert event.evidence["spiffe.path"] == "/bot"


@pytest.mark.requirement("spiffe-jwt-svid")
async def test_token_ends_with_its_svid(spiffe: Spiffe) -> None:
    answer = await spiffe.ask(PROD.jwt_svid(exp=NOW + 120))
    assert answer.json()["expires_in"] == 120


@pytest.mark.requirement("spiffe-jwt-svid")
@pytest.mark.parametrize("algorithm", ["RS256"])
async def test_jwt_svid_of_an_rsa_authority_is_accepted(spiffe: Spiffe, algorithm: str) -> None:
    assert (await spiffe.ask(PROD.rsa_svid(algorithm))).status_code == 200


@pytest.mark.requirement("spiffe-jwt-svid")
@pytest.mark.parametrize("typ", ["JWT", "JOSE", None])
async def test_type_is_one_of_the_specification(spiffe: Spiffe, typ: str | None) -> None:
    assert (await spiffe.ask(PROD.jwt_svid(header={"typ": typ}))).status_code == 200


@pytest.mark.requirement("spiffe-jwt-svid")
async def test_one_svid_serves_many_requests(spiffe: Spiffe) -> None:
    svid = PROD.jwt_svid()
    assert [(await spiffe.ask(svid)).status_code for _ in range(3)] == [200, 200, 200]


@pytest.mark.requirement("spiffe-jwt-svid")
@pytest.mark.parametrize(
    ("client_id", "status"),
    [
        ("svid-bot", 200),
        ("spiffe://prod.example.com/bot", 200),
        ("lab-bot", 401),
        ("spiffe://prod.example.com/other", 401),
        ("spiffe://lab.example.com/bot", 401),
    ],
)
async def test_client_id_is_the_agent_or_its_spiffe_id(
    spiffe: Spiffe, client_id: str, status: int
) -> None:
    assert (await spiffe.ask(PROD.jwt_svid(), client_id=client_id)).status_code == status


@pytest.mark.requirement("attack-5")
@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"aud": [f"{ISSUER}/oauth/token"]}, "jwt.audience"),
        ({"aud": f"{ISSUER}/"}, "jwt.audience"),
        ({"aud": [ISSUER, "https://elsewhere.example"]}, "jwt.audience"),
        ({"aud": []}, "jwt.audience"),
        ({"aud": None}, "jwt.audience"),
        ({"aud": {"a": ISSUER}}, "jwt.audience"),
        ({"exp": None}, "jwt.missing"),
        ({"iat": None}, "jwt.missing"),
        ({"exp": float(NOW + 300)}, "jwt.claim"),
        ({"exp": str(NOW + 300)}, "jwt.claim"),
        ({"exp": True}, "jwt.claim"),
        ({"exp": NOW - 10, "iat": NOW - 300}, "jwt.expired"),
        ({"exp": NOW}, "jwt.expired"),
        ({"exp": NOW + 3601}, "jwt.lifetime"),
        ({"iat": NOW + 60}, "jwt.future"),
        ({"nbf": NOW + 60}, "jwt.future"),
        ({"nbf": float(NOW)}, "jwt.claim"),
        ({"sub": None}, "spiffe.subject"),
        ({"sub": "spiffe://prod.example.com"}, "spiffe.subject"),
        ({"sub": "spiffe://prod.example.com/"}, "spiffe.subject"),
        ({"sub": "spiffe://PROD.example.com/bot"}, "spiffe.subject"),
        ({"sub": "spiffe://prod.example.com/./bot"}, "spiffe.subject"),
        ({"sub": "spiffe://prod.example.com/bot?x"}, "spiffe.subject"),
        ({"sub": "spiffe://u@prod.example.com/bot"}, "spiffe.subject"),
        ({"sub": ["spiffe://prod.example.com/bot"]}, "spiffe.subject"),
        ({"sub": "svid-bot"}, "spiffe.subject"),
        ({"sub": "spiffe://prod.example.com/other"}, "agent.unknown"),
    ],
)
async def test_wrong_jwt_svid_is_refused(
    spiffe: Spiffe, changes: dict[str, Any], rule: str
) -> None:
    claims = PROD.claims() | changes
    await spiffe.refused(PROD.jwt_svid(**claims), rule)
    assert (await spiffe.ask(PROD.jwt_svid(**PROD.claims()))).status_code == 200


@pytest.mark.requirement("attack-5")
async def test_foreign_domain_is_refused_whatever_it_says(spiffe: Spiffe) -> None:
    # Nobody declared it.
    await spiffe.refused(NOWHERE.jwt_svid(), "client.unknown")
    # Declared, but its keys speak for itself alone: it signs our subject.
    await spiffe.refused(LAB.jwt_svid(sub="spiffe://prod.example.com/bot"), "jwt.signature")
    # Our key id and our header with its own key.
    await spiffe.refused(NOWHERE.jwt_svid(sub="spiffe://prod.example.com/bot"), "jwt.signature")
    # `iss` chooses nothing where `sub` names a workload.
    stolen = LAB.jwt_svid(sub="spiffe://prod.example.com/bot", iss="spiffe://lab.example.com")
    await spiffe.refused(stolen, "jwt.signature", client_assertion_type=CLIENT_ASSERTION_JWT_BEARER)
    answer = await spiffe.ask(LAB.jwt_svid())
    assert payload_of(answer.json()["access_token"])["agent"] == "lab-bot"


@pytest.mark.requirement("attack-1")
@pytest.mark.parametrize("alg", ["none", "None", "HS256", "HS512", "EdDSA", "", None, 5, ["ES256"]])
async def test_algorithm_outside_the_list_is_refused(spiffe: Spiffe, alg: object) -> None:
    forged = sign_as("ES256", {"alg": alg, "kid": "ec"}, PROD.claims(), PROD.jwt_key)
    await spiffe.refused(forged, "jwt.algorithm")


@pytest.mark.requirement("attack-1")
async def test_public_key_is_no_shared_secret(spiffe: Spiffe) -> None:
    secret = RSA.as_pem(private=False)
    forged = sign_by_secret({"alg": "HS256", "kid": "rsa"}, PROD.claims(), secret)
    await spiffe.refused(forged, "jwt.algorithm")
    relabelled = sign_by_secret({"alg": "RS256", "kid": "rsa"}, PROD.claims(), secret)
    await spiffe.refused(relabelled, "jwt.signature")


@pytest.mark.requirement("attack-1")
@pytest.mark.parametrize(
    ("alg", "kid"), [("RS256", "ec"), ("ES256", "rsa"), ("ES384", "ec"), ("RS512", "rsa")]
)
async def test_key_verifies_its_own_algorithm_only(spiffe: Spiffe, alg: str, kid: str) -> None:
    forged = sign_as("ES256", {"alg": alg, "kid": kid}, PROD.claims(), PROD.jwt_key)
    await spiffe.refused(forged, "jwt.algorithm")


@pytest.mark.requirement("attack-2")
@pytest.mark.parametrize(
    ("header", "rule"),
    [
        ({"jku": "https://evil.example/jwks"}, "jwt.header"),
        ({"x5u": "https://evil.example/x"}, "jwt.header"),
        ({"jwk": {"kty": "EC"}}, "jwt.header"),
        ({"x5c": ["AAAA"]}, "jwt.header"),
        ({"crit": ["b64"], "b64": False}, "jwt.header"),
        ({"kid": "../../etc/passwd"}, "jwt.key"),
        ({"kid": "' OR 1=1 --"}, "jwt.key"),
        ({"kid": "http://127.0.0.1/key"}, "jwt.key"),
        ({"kid": None}, "jwt.key"),
        ({"kid": ["ec"]}, "jwt.key"),
        ({"typ": "at+jwt"}, "jwt.type"),
        ({"typ": ["JWT"]}, "jwt.type"),
    ],
)
async def test_header_that_brings_a_key_is_refused(
    spiffe: Spiffe, header: dict[str, Any], rule: str
) -> None:
    await spiffe.refused(PROD.jwt_svid(header=header), rule)


@pytest.mark.requirement("attack-6")
async def test_token_of_another_purpose_is_no_svid(spiffe: Spiffe) -> None:
    workload = spiffe.server.workload(1002)
    await spiffe.refused(workload.attestation(), "spiffe.subject")
    access_token = (await workload.ask()).json()["access_token"]
    await spiffe.refused(access_token, "spiffe.subject")
    assert (await workload.ask()).status_code == 200


@pytest.mark.requirement("attack-6")
@pytest.mark.parametrize("use", ["x509-svid", "sig", "enc", None])
async def test_key_of_another_use_verifies_nothing(spiffe: Spiffe, use: str | None) -> None:
    bundle = spiffe.directory / "prod.json"
    bundle.write_bytes(PROD.bundle(PROD.rsa_jwk(), {**PROD.jwk(), "use": use, "x5c": ["A"]}))
    if use == "x509-svid":
        await spiffe.refused(PROD.jwt_svid(), "spiffe.bundle")
    else:
        await spiffe.refused(PROD.jwt_svid(), "jwt.key")
    bundle.write_bytes(PROD.bundle())
    assert (await spiffe.ask(PROD.jwt_svid())).status_code == 200


@pytest.mark.requirement("attack-28")
async def test_svid_from_before_a_kill_is_refused_after_restore(spiffe: Spiffe) -> None:
    before = PROD.jwt_svid()
    assert (await spiffe.ask(before)).status_code == 200
    await spiffe.server.block(BlockKind.AGENT, "svid-bot")
    assert error_of(await spiffe.ask(before)) == "invalid_grant"
    await spiffe.server.restore(BlockKind.AGENT, "svid-bot")
    spiffe.server.clock.now += 2
    assert error_of(await spiffe.ask(before)) == "invalid_grant"
    assert (await spiffe.ask(PROD.jwt_svid(iat=NOW + 2, exp=NOW + 300))).status_code == 200


@pytest.mark.requirement("spiffe-jwt-svid")
async def test_svid_without_a_proof_of_possession_yields_nothing(spiffe: Spiffe) -> None:
    form = {
        "grant_type": GRANT_CLIENT_CREDENTIALS,
        "client_assertion_type": CLIENT_ASSERTION_JWT_SPIFFE,
        "client_assertion": PROD.jwt_svid(),
        "resource": CRM,
    }
    assert error_of(await spiffe.server.post(form)) == "invalid_dpop_proof"
    assert spiffe.server.refusals()[-1].reasons == ("dpop.missing",)


@pytest.mark.requirement("spiffe-bundle-file")
async def test_bundle_file_is_read_again_when_it_changes(spiffe: Spiffe) -> None:
    bundle, rotated = spiffe.directory / "prod.json", TrustDomain(PROD.name)
    await spiffe.refused(rotated.jwt_svid(), "jwt.signature")
    bundle.write_bytes(rotated.bundle(spiffe_sequence=2))
    assert (await spiffe.ask(rotated.jwt_svid())).status_code == 200
    await spiffe.refused(PROD.jwt_svid(), "jwt.signature")
    for broken in (b"", b"{", rotated.bundle()[:-9], b'{"keys": {}}', b"[]"):
        bundle.write_bytes(broken)
        await spiffe.refused(rotated.jwt_svid(), "spiffe.bundle")
    bundle.unlink()
    await spiffe.refused(rotated.jwt_svid(), "spiffe.bundle")
    bundle.write_bytes(PROD.bundle())
    assert (await spiffe.ask(PROD.jwt_svid())).status_code == 200


@pytest.mark.requirement("spiffe-jwt-svid")
async def test_actor_of_a_persons_token_is_the_workload_of_its_trust_domain(
    spiffe: Spiffe,
) -> None:
    verifier = spiffe.server.parts.workload_verifier("spiffe://prod.example.com")
    assert verifier is not None
    evidence = await verifier.verify(PROD.jwt_svid(), NOW)
    assert isinstance(evidence, Evidence)
    actor = agent_actor(evidence, spiffe.server.parts.live.snapshot.agents["svid-bot"])
    assert (actor.iss, actor.sub) == ("spiffe://prod.example.com", "spiffe://prod.example.com/bot")
    assert actor.agent == "svid-bot"


@pytest.mark.requirement("spiffe-jwt-svid")
async def test_issuer_is_compared_where_one_is_demanded(tmp_path: Path) -> None:
    path = tmp_path / "prod.json"
    path.write_bytes(PROD.bundle())
    settings = SpiffeSettings(
        trust_domain=PROD.name, bundle_file=str(path), jwt_issuer="https://spire.example.com"
    )
    verifier = SpiffeVerifier("prod", settings, ISSUER, BundleFile(path))
    for issuer, rule in ((None, "jwt.issuer"), ("https://other.example", "jwt.issuer")):
        refusal = await verifier.verify(PROD.jwt_svid(iss=issuer), NOW)
        assert isinstance(refusal, Refusal)
        assert refusal.rule == rule
    found = await verifier.verify(PROD.jwt_svid(iss="https://spire.example.com"), NOW)
    assert isinstance(found, Evidence)
