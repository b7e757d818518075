"""People, processes and agents to test with, and a signer like the authorization server's."""

import itertools
import json
from collections.abc import Callable, Mapping, Sequence

import argon2
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from joserfc.jwk import ECKey

from idp_connectors.evidence import Evidence
from idp_connectors.workload.process_facts import ProcessFacts
from idp_connectors.workload.verifier import WorkloadParts
from outbound.fetcher import Fetcher
from outbound.jwks import JwksCache
from registry.snapshot import AgentEntry, AgentRecord
from token_exchange.claims import Refusal
from token_exchange.compact_jws import encode_base64url
from token_exchange.keys import VerificationKeys

ISSUER = "http://127.0.0.1:8700"
NOW = 1_800_000_000
ATTESTATION_KEY = ECKey.generate_key("P-256")
AGENT_THUMBPRINT = ECKey.generate_key("P-256").thumbprint()


def cheap(*, time_cost: int = 1) -> argon2.Parameters:
    """Real argon2id that takes no time."""
    return argon2.Parameters(
        type=argon2.Type.ID,
        version=19,
        salt_len=16,
        hash_len=16,
        time_cost=time_cost,
        memory_cost=64,
        parallelism=1,
    )


def counting_random() -> Callable[[int], bytes]:
    numbers = itertools.count(1)
    return lambda size: next(numbers).to_bytes(size, "big")


def signed(claims: object, *, key: ECKey = ATTESTATION_KEY, **header: object) -> str:
    """A JWS with any header one likes, always signed by ES256."""
    members = {"alg": "ES256", "kid": key.thumbprint(), "typ": "countersign-attestation+jwt"}
    parts = (json.dumps(members | header), json.dumps(claims))
    signing_input = ".".join(encode_base64url(part.encode()) for part in parts)
    private = key.private_key
    assert private is not None
    r, s = decode_dss_signature(private.sign(signing_input.encode(), ec.ECDSA(SHA256())))
    signature = encode_base64url(r.to_bytes(32, "big") + s.to_bytes(32, "big"))
    return f"{signing_input}.{signature}"


class Secrets:
    """A vault with what the test puts into it."""

    def __init__(self, **values: str) -> None:
        self.values = values

    async def open(self, name: str) -> str | Refusal:
        absent = Refusal("invalid_target", "no", f"there is no secret {name}", "vault.absent")
        return self.values.get(name, absent)


class Signer:
    """Signs attestations, as the key ring's signer does."""

    def sign(self, claims: object) -> str:
        return signed(claims)


def workload_parts(key: ECKey = ATTESTATION_KEY) -> WorkloadParts:
    keys = VerificationKeys.of([key.as_dict(private=False)])
    fetcher = Fetcher(refuse_to_resolve)
    return WorkloadParts(
        issuer=ISSUER,
        attestation_keys=lambda: keys,
        fetcher=fetcher,
        jwks=JwksCache(fetcher, lambda: NOW),
        clock=lambda: NOW,
    )


async def refuse_to_resolve(host: str, port: int) -> Sequence[str]:
    """No test of this folder fetches anything."""
    raise OSError(f"{host}:{port} is outside")


def agent(
    name: str = "support-bot",
    *,
    match: Mapping[str, str],
    providers: tuple[str, ...] = ("local",),
    minimum_level: int = 1,
) -> AgentRecord:
    return AgentRecord(
        entry=AgentEntry(
            name=name,
            groups=(),
            tools=("crm/get_*",),
            environment="production",
            minimum_level=minimum_level,
        ),
        owner="support@example.com",
        providers=providers,
        match=dict(match),
        may_act_alone=False,
        acts_for_groups=(),
        consent_days=30,
        client_ids=(name,),
        redirect_uris=(),
        invocation_seconds=900,
    )


def agents(*records: AgentRecord) -> dict[str, AgentRecord]:
    return {record.entry.name: record for record in records}


def evidence(claims: Mapping[str, str], *, provider: str = "local", level: int = 1) -> Evidence:
    return Evidence(
        provider=provider,
        method="unix_process",
        level=level,
        issuer=f"{ISSUER}/attest/{provider}",
        subject="unix:laptop/1000/-",
        claims=claims,
        digest="sha-256:x",
        issued_at=NOW,
        expires_at=NOW + 900,
    )


def process(
    pid: int = 4711,
    *,
    uid: int = 1000,
    parent_pid: int = 1,
    unit: str | None = None,
    exe: str | None = "/usr/bin/python3.11",
    script_digest: str | None = None,
) -> ProcessFacts:
    return ProcessFacts(
        pid=pid,
        parent_pid=parent_pid,
        start_time=pid * 10,
        uids=(uid,) * 4,
        gids=(uid,) * 4,
        cgroup="/" if unit is None else f"/system.slice/{unit}",
        unit=unit,
        exe=exe,
        script_digest=script_digest,
    )
