"""Agents with identities of a real SPIRE, through the real processes to a tool and its audit.

Two trust domains run: `prod`, which is declared, and `lab`, which is foreign until a test declares
it. The test process is the workload: SPIRE's agent attests it by its user.
"""

import base64
import contextlib
import datetime as dt
import json
import os
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from spiffe import SpiffeId, WorkloadApiClient

from compose.demo.stack import Stack
from tests.services import spire
from tests.services.common import service
from tests.stack import (
    admin,
    audit_events,
    await_event,
    demo_objects,
    free_ports,
    held_port,
    mcp_headers,
    new_key,
    prepare,
    tool_call,
)
from token_exchange.token_types import CLIENT_ASSERTION_JWT_SPIFFE, GRANT_CLIENT_CREDENTIALS

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

PROD = "prod.example.com"
LAB = "lab.example.com"
AWAIT_SECONDS = 30.0

POLICY = """
@id("grant-svid-agents")
permit (principal in AgentGroup::"svid-agents", action == Action::"crm/list_hours", resource);
"""


@dataclass(frozen=True)
class World:
    """The running product and both trust domains; `lab` publishes its bundle."""

    stack: Stack
    prod: spire.TrustDomain
    lab: spire.TrustDomain
    lab_endpoint: spire.BundleEndpoint

    def token(self, svid: str, **changes: str) -> tuple[httpx2.Response, Any]:
        """Ask for a token with a JWT-SVID, bound to a fresh key; the answer and the key."""
        key, url = new_key(), f"{self.stack.issuer}/oauth/token"
        form = {
            "grant_type": GRANT_CLIENT_CREDENTIALS,
            "client_assertion_type": CLIENT_ASSERTION_JWT_SPIFFE,
            "client_assertion": svid,
            "resource": self.stack.endpoint("crm"),
        }
        headers = {"dpop": key.proof("POST", url)}
        return self.stack.http.post(url, data=form | changes, headers=headers), key

    def call(self, token: str, key: Any, tool: str = "list_hours") -> httpx2.Response:
        """One tool call through the gateway."""
        url = self.stack.endpoint("crm")
        bound = {"authorization": f"DPoP {token}", "dpop": key.proof("POST", url, token)}
        headers = mcp_headers("tools/call", tool) | bound
        return self.stack.http.post(url, json=tool_call(tool, {}), headers=headers)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with service("SPIRE"):
        spire.install()
    directory = tmp_path_factory.mktemp("spire")
    endpoint = bundle_endpoint(directory)
    with (
        spire.running_trust_domain(PROD, directory / "p") as prod,
        spire.running_trust_domain(LAB, directory / "l", endpoint=endpoint) as lab,
        Stack(directory / "stack", ports=free_ports(), environment=mtls(directory)) as stack,
    ):
        for domain in (prod, lab):
            domain.await_identity(domain.register("/support-bot", f"unix:uid:{os.getuid()}"))
        bundle = directory / "prod.json"
        bundle.write_text(prod.bundle())
        stack.start_all()
        prepare(stack, [*demo_objects(stack), *objects(bundle_file=str(bundle))])
        yield World(stack, prod, lab, endpoint)


def mtls(directory: Path) -> dict[str, str]:
    """Settings of a listener for client certificates, with a certificate of its own."""
    certificate, key = own_certificate(directory, "own")
    port = free_port()
    return {
        "COUNTERSIGN_MTLS_BASE_URL": f"https://127.0.0.1:{port}",
        "COUNTERSIGN_MTLS_LISTEN_PORT": str(port),
        "COUNTERSIGN_MTLS_CERTIFICATE_FILE": str(certificate),
        "COUNTERSIGN_MTLS_KEY_FILE": str(key),
    }


def bundle_endpoint(directory: Path) -> spire.BundleEndpoint:
    """Where `lab` is to publish its bundle."""
    return spire.BundleEndpoint(free_port(), *own_certificate(directory, "lab"))


def free_port() -> int:
    with contextlib.ExitStack() as holding:
        return held_port(holding)


def own_certificate(directory: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)  # noqa: TID251 - real processes have real time
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = directory / f"{name}.pem", directory / f"{name}.key"
    files[0].write_bytes(made.public_bytes(Encoding.PEM))
    files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return files


def objects(**source: Any) -> list[dict[str, Any]]:
    """The trust domain `prod`, its agent and what that may do."""
    return [
        provider("prod", PROD, **source),
        agent("svid-bot", "prod", f"spiffe://{PROD}/support-bot"),
        {"kind": "Policy", "name": "svid", "spec": {"cedar": POLICY}},
    ]


def provider(name: str, trust_domain: str, **source: Any) -> dict[str, Any]:
    spec = {"type": "spiffe", "trust_domain": trust_domain, **source}
    return {"kind": "TrustProvider", "name": name, "spec": spec}


def agent(name: str, trust_provider: str, spiffe_id: str) -> dict[str, Any]:
    match = {"spiffe.id": spiffe_id}
    rule = {"providers": [trust_provider], "minimum_level": 2, "match": match}
    spec = {
        "owner": "platform@example.com",
        "attestation": rule,
        "groups": ["svid-agents"],
        "tools": ["crm/list_hours"],
    }
    return {"kind": "Agent", "name": name, "spec": spec}


def jwt_svid(domain: spire.TrustDomain, *audience: str, path: str = "/support-bot") -> str:
    """A JWT-SVID of this very process, which has several identities."""
    subject = SpiffeId(f"spiffe://{domain.name}{path}")

    def ask() -> str:
        with WorkloadApiClient(domain.workload_api, default_timeout=5) as api:
            return str(api.fetch_jwt_svid(audience=set(audience), subject=subject).token)

    return spire.eventually(ask)


def forged(svid: str, **header: Any) -> str:
    """The same claims under another header, signed by nobody."""
    head = base64.urlsafe_b64encode(json.dumps(header).encode()).decode().rstrip("=")
    return f"{head}.{svid.split('.')[1]}.{svid.split('.')[2]}"


def x509_svid(domain: spire.TrustDomain, directory: Path, path: str = "/support-bot") -> Path:
    """An X.509-SVID of this very process with its key, in one PEM file."""

    def ask() -> str:
        with WorkloadApiClient(domain.workload_api, default_timeout=5) as api:
            svids = {str(each.spiffe_id): each for each in api.fetch_x509_svids()}
        svid = svids[f"spiffe://{domain.name}{path}"]
        chain = b"".join(each.public_bytes(Encoding.PEM) for each in svid.cert_chain)
        private = svid.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return (chain + private).decode()

    file = directory / f"{domain.name}.pem"
    file.write_text(spire.eventually(ask))
    return file


def token_over_tls(world: World, svid: Path | None, **changes: str) -> tuple[httpx2.Response, Any]:
    """Ask at the listener for client certificates, found by the metadata."""
    metadata = world.stack.http.get(
        f"{world.stack.issuer}/.well-known/oauth-authorization-server"
    ).json()
    url = metadata["mtls_endpoint_aliases"]["token_endpoint"]
    context = ssl.create_default_context(
        cafile=world.stack.environment["COUNTERSIGN_MTLS_CERTIFICATE_FILE"]
    )
    if svid is not None:
        context.load_cert_chain(svid)
    key = new_key()
    form = {"grant_type": GRANT_CLIENT_CREDENTIALS, "resource": world.stack.endpoint("crm")}
    headers = {"dpop": key.proof("POST", url)}
    with httpx2.Client(verify=context, trust_env=False, timeout=10) as http:
        return http.post(url, data=form | changes, headers=headers), key


def claims_of(token: str) -> dict[str, Any]:
    part = token.split(".")[1]
    return dict(json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))))


def refused(world: World, svid: str, rule: str, **changes: str) -> None:
    """Refused as an unknown client, and the audit says why."""
    before = len(refusals(world))
    answer, _ = world.token(svid, **changes)
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client"), answer.text
    until = time.monotonic() + AWAIT_SECONDS
    while len(refusals(world)) == before:
        assert time.monotonic() < until, "the audit has no such event"
    assert refusals(world)[before]["reasons"] == [rule]


def refusals(world: World) -> list[dict[str, Any]]:
    return [each for each in audit_events(world.stack) if each["type"] == "token.refused"]


@pytest.mark.requirement("spiffe-real")
def test_jwt_svid_of_a_real_spire_reaches_a_tool(world: World) -> None:
    answer, key = world.token(jwt_svid(world.prod, world.stack.issuer))
    assert answer.status_code == 200, answer.text
    token = answer.json()["access_token"]
    claims = claims_of(token)
    assert (claims["agent"], claims["sub"]) == ("svid-bot", "agent:svid-bot")
    assert (claims["attn"]["method"], claims["attn"]["level"]) == ("jwt-svid", 2)
    called = world.call(token, key)
    assert called.status_code == 200, called.text
    assert not called.json()["result"].get("isError"), called.text
    event = await_event(world.stack, type="call.finished", agent="svid-bot")
    assert event["tool"] == "list_hours"


@pytest.mark.requirement("spiffe-real")
@pytest.mark.requirement("attack-5")
def test_svid_for_somebody_else_is_refused(world: World) -> None:
    issuer = world.stack.issuer
    refused(world, jwt_svid(world.prod, f"{issuer}/oauth/token"), "jwt.audience")
    refused(world, jwt_svid(world.prod, issuer, "https://other.example"), "jwt.audience")
    refused(world, jwt_svid(world.lab, issuer), "client.unknown")
    ours = jwt_svid(world.prod, issuer)
    foreign = ".".join([*jwt_svid(world.lab, issuer).split(".")[:1], *ours.split(".")[1:]])
    refused(world, foreign, "jwt.key")
    assert world.token(ours)[0].status_code == 200


@pytest.mark.requirement("spiffe-real")
@pytest.mark.requirement("attack-1")
def test_svid_under_another_header_is_refused(world: World) -> None:
    svid = jwt_svid(world.prod, world.stack.issuer)
    kid = json.loads(base64.urlsafe_b64decode(svid.split(".")[0] + "=="))["kid"]
    refused(world, forged(svid, alg="none", kid=kid), "jwt.algorithm")
    refused(world, forged(svid, alg="HS256", kid=kid), "jwt.algorithm")
    refused(world, forged(svid, alg="RS256", kid=kid), "jwt.algorithm")
    refused(world, forged(svid, alg="ES256", kid=kid), "jwt.signature")
    refused(world, forged(svid, alg="ES256", kid=f"{kid}x"), "jwt.key")


@pytest.mark.requirement("spiffe-real")
@pytest.mark.requirement("attack-5")
def test_svid_that_has_ended_is_refused(world: World) -> None:
    world.prod.register("/short-lived", f"unix:uid:{os.getuid()}", jwt_seconds=2)
    svid = jwt_svid(world.prod, world.stack.issuer, path="/short-lived")
    while time.time() < claims_of(svid)["exp"] + 5.5:  # noqa: TID251 - SPIRE's clock is the real one
        time.sleep(0.2)
    refused(world, svid, "jwt.expired")


@pytest.mark.requirement("spiffe-real")
@pytest.mark.requirement("spiffe-bundle")
@pytest.mark.parametrize("source", ["workload_api", "bundle_file"])
def test_bundle_comes_from_where_the_operator_says(world: World, source: str) -> None:
    file = world.prod.directory.parent / "prod.json"
    file.write_text(world.prod.bundle())
    places = {"workload_api": world.prod.workload_api, "bundle_file": str(file)}
    with admin(world.stack) as api:
        changed = objects(**{source: places[source]})
        api.call("POST", "/objects", json={"objects": changed})
    answer, _ = world.token(jwt_svid(world.prod, world.stack.issuer))
    assert answer.status_code == 200, answer.text


@pytest.mark.requirement("spiffe-real")
@pytest.mark.requirement("spiffe-x509-svid")
def test_x509_svid_of_a_real_spire_reaches_a_tool(world: World, tmp_path: Path) -> None:
    answer, key = token_over_tls(world, x509_svid(world.prod, tmp_path))
    assert answer.status_code == 200, answer.text
    token = answer.json()["access_token"]
    claims = claims_of(token)
    assert (claims["agent"], claims["attn"]["method"]) == ("svid-bot", "x509-svid")
    assert claims["attn"]["level"] == 2
    called = world.call(token, key)
    assert not called.json()["result"].get("isError"), called.text


@pytest.mark.requirement("spiffe-real")
@pytest.mark.requirement("spiffe-x509-svid")
def test_tls_refuses_a_foreign_domain_and_a_peer_without_certificate(
    world: World, tmp_path: Path
) -> None:
    for svid in (x509_svid(world.lab, tmp_path), None):
        with pytest.raises(httpx2.HTTPError):
            token_over_tls(world, svid)
    assert token_over_tls(world, x509_svid(world.prod, tmp_path))[0].status_code == 200


@pytest.mark.requirement("spiffe-real")
@pytest.mark.requirement("spiffe-bundle")
def test_second_domain_is_accepted_as_itself_once_it_is_declared(
    world: World, tmp_path: Path
) -> None:
    svid = jwt_svid(world.lab, world.stack.issuer)
    refused(world, svid, "client.unknown")
    host = f"127.0.0.1:{world.lab_endpoint.port}"
    declared = [
        provider(
            "lab",
            LAB,
            bundle_endpoint=f"https://{host}",
            ca_bundle=str(world.lab_endpoint.certificate),
            private_hosts=[host],
        ),
        agent("lab-bot", "lab", f"spiffe://{LAB}/support-bot"),
    ]
    with admin(world.stack) as api:
        api.call("POST", "/objects", json={"objects": declared})
        try:
            answer, _ = world.token(svid)
            assert answer.status_code == 200, answer.text
            claims = claims_of(answer.json()["access_token"])
            assert claims["agent"] == "lab-bot"
            # Its authority now opens the TLS gate, and still speaks for its own domain alone.
            answer = over_tls_once_trusted(world, x509_svid(world.lab, tmp_path))
            assert claims_of(answer.json()["access_token"])["agent"] == "lab-bot"
        finally:
            for kind, name in (("Agent", "lab-bot"), ("TrustProvider", "lab")):
                api.call("DELETE", f"/objects/{kind}/{name}")
    refused(world, svid, "client.unknown")


def over_tls_once_trusted(world: World, svid: Path) -> httpx2.Response:
    """The listener takes up a new authority within seconds."""
    until = time.monotonic() + AWAIT_SECONDS
    while True:
        try:
            return token_over_tls(world, svid)[0]
        except httpx2.HTTPError:
            assert time.monotonic() < until, "the new authority is not trusted"
            time.sleep(0.2)


@pytest.mark.requirement("spiffe-real")
@pytest.mark.requirement("spiffe-bundle")
def test_new_signing_key_of_the_domain_is_taken_up_without_a_restart(world: World) -> None:
    rotated = agent("rotated-bot", "prod", f"spiffe://{PROD}/rotated")
    with admin(world.stack) as api:
        declared = [*objects(workload_api=world.prod.workload_api), rotated]
        api.call("POST", "/objects", json={"objects": declared})
    before = jwt_svid(world.prod, world.stack.issuer)
    assert world.token(before)[0].status_code == 200  # the server knows the keys of now
    key_id = world.prod.rotate_jwt_authority()
    world.prod.register("/rotated", f"unix:uid:{os.getuid()}")
    after = jwt_svid(world.prod, world.stack.issuer, path="/rotated")
    assert json.loads(base64.urlsafe_b64decode(after.split(".")[0] + "=="))["kid"] == key_id
    until = time.monotonic() + AWAIT_SECONDS  # SPIRE's agent tells the new bundle within seconds
    while (answer := world.token(after)[0]).status_code != 200:
        assert time.monotonic() < until, answer.text
        time.sleep(0.5)
    assert world.token(before)[0].status_code == 200
