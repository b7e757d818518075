import asyncio
import hmac
import json
from typing import Any

import pytest
from joserfc.jwk import ECKey

from idp_connectors.evidence import Evidence
from idp_connectors.workload.catalog import WorkloadVerifiers, unix_process_providers
from idp_connectors.workload.peer import PeerIdentity
from idp_connectors.workload.process_facts import script_of, unit_of
from idp_connectors.workload.unix_process import (
    UnixProcessSettings,
    UnixProcessVerifier,
    attestation_claims,
    subject_of,
)
from registry.snapshot import ProviderRecord
from tests.idp_connectors.samples import (
    AGENT_THUMBPRINT,
    ATTESTATION_KEY,
    ISSUER,
    NOW,
    process,
    signed,
    workload_parts,
)
from token_exchange.claims import Refusal
from token_exchange.compact_jws import encode_base64url

FOREIGN_KEY = ECKey.generate_key("P-256")


def claims(**changes: object) -> dict[str, Any]:
    peer = PeerIdentity(process(unit="bot.service"), is_pinned=True)
    made = attestation_claims(peer, issuer=ISSUER, provider="local", host="laptop", demo=False)
    times = {"iat": NOW, "exp": NOW + 55, "jti": "att_1", "cnf": {"jkt": AGENT_THUMBPRINT}}
    merged = made | times | changes
    return {name: value for name, value in merged.items() if value is not ...}


def verify(
    assertion: str, *, now: int = NOW, settings: UnixProcessSettings | None = None
) -> Evidence | Refusal:
    verifier = UnixProcessVerifier("local", settings or UnixProcessSettings(), workload_parts())
    return asyncio.run(verifier.verify(assertion, now))


def test_attestation_verifies_to_the_evidence_it_carries() -> None:
    found = verify(signed(claims()))
    assert isinstance(found, Evidence)
    assert (found.provider, found.method, found.level) == ("local", "unix_process", 1)
    assert found.issuer == f"{ISSUER}/attest/local"
    assert found.subject == "unix:laptop/1000/bot.service"
    assert found.claims["unix.unit"] == "bot.service"
    assert (found.issued_at, found.expires_at) == (NOW, NOW + 900)
    assert (found.proof_id, found.key_thumbprint) == ("att_1", AGENT_THUMBPRINT)
    assert found.digest.startswith("sha-256:")


def test_evidence_lives_as_long_as_the_provider_says() -> None:
    found = verify(signed(claims()), settings=UnixProcessSettings(evidence_seconds=60))
    assert isinstance(found, Evidence)
    assert found.expires_at == NOW + 60


def test_evidence_digest_depends_on_every_claim() -> None:
    one, other = verify(signed(claims())), verify(signed(claims(evidence={"unix.uid": "0"})))
    assert isinstance(one, Evidence)
    assert isinstance(other, Evidence)
    assert one.digest != other.digest


@pytest.mark.requirement("attack-5")
@pytest.mark.parametrize(
    "changes",
    [
        {"aud": f"{ISSUER}/"},
        {"aud": f"{ISSUER}/admin"},
        {"aud": [ISSUER, "https://other.example.com"]},
        {"aud": ...},
        {"iss": f"{ISSUER}/attest/other"},
        {"iss": ISSUER},
        {"exp": NOW + 3600},
        {"exp": ...},
        {"exp": float(NOW + 55)},
        {"exp": str(NOW + 55)},
        {"exp": True},
        {"iat": ...},
        {"iat": NOW + 60, "exp": NOW + 100},
        {"nbf": NOW + 60},
        {"jti": ...},
        {"jti": ""},
        {"sub": ...},
        {"sub": 7},
        {"cnf": ...},
        {"cnf": {}},
        {"cnf": {"jkt": "short"}},
        {"cnf": {"jkt": AGENT_THUMBPRINT + "="}},
        {"cnf": "x"},
        {"evidence": ...},
        {"evidence": {}},
        {"evidence": {"unix.uid": 0}},
        {"evidence": {"unix": {"uid": "0"}}},
        {"evidence": ["unix.uid"]},
        {"evidence": {f"unix.{n}": "x" for n in range(17)}},
        {"level": ...},
        {"level": 2},
        {"level": True},
        {"level": "1"},
        {"level": -1},
    ],
    ids=",".join,
)
def test_attestation_with_a_wrong_claim_is_refused(changes: dict[str, object]) -> None:
    refusal = verify(signed(claims(**changes)))
    assert isinstance(refusal, Refusal)
    assert refusal.code == "invalid_client"


@pytest.mark.requirement("attack-5")
def test_attestation_is_refused_a_minute_after_it_was_made_at_the_latest() -> None:
    assertion = signed(claims())
    assert isinstance(verify(assertion, now=NOW + 59), Evidence)
    assert isinstance(verify(assertion, now=NOW + 60), Refusal)


@pytest.mark.requirement("attack-6")
@pytest.mark.parametrize(
    "typ", ["JWT", "at+jwt", "dpop+jwt", "application/countersign-attestation+jwt", None]
)
def test_attestation_of_another_type_is_refused(typ: str | None) -> None:
    assert isinstance(verify(signed(claims(), typ=typ)), Refusal)


@pytest.mark.requirement("attack-1")
def test_attestation_signed_by_another_key_is_refused() -> None:
    assert isinstance(verify(signed(claims(), key=FOREIGN_KEY)), Refusal)
    stolen_kid = signed(claims(), key=FOREIGN_KEY, kid=ATTESTATION_KEY.thumbprint())
    assert isinstance(verify(stolen_kid), Refusal)


@pytest.mark.requirement("attack-1")
def test_attestation_without_signature_or_by_hmac_with_the_public_key_is_refused() -> None:
    head, body, _ = signed(claims()).split(".")
    assert isinstance(verify(f"{head}.{body}."), Refusal)
    signing_input, _, _ = signed(claims(), alg="HS256").rpartition(".")
    public = json.dumps(ATTESTATION_KEY.as_dict(private=False)).encode()
    tag = hmac.new(public, signing_input.encode(), "sha256").digest()
    assert isinstance(verify(f"{signing_input}.{encode_base64url(tag)}"), Refusal)


@pytest.mark.requirement("attack-2")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("jku", "https://evil.example.com"),
        ("x5u", "https://evil.example.com"),
        ("jwk", FOREIGN_KEY.as_dict(private=False)),
        ("crit", ["b64"]),
        ("b64", False),
        ("kid", "../keys/attestation"),
        ("kid", "' OR 1=1 --"),
        ("kid", None),
    ],
)
def test_attestation_whose_header_brings_its_own_key_or_rules_is_refused(
    name: str, value: object
) -> None:
    assertion = signed(claims(), **{name: value})  # type: ignore[arg-type]  # `key` is not among them
    assert isinstance(verify(assertion), Refusal)


@pytest.mark.requirement("attack-30")
@pytest.mark.parametrize("rubbish", ["", "a.b.c", "x" * 200_000, "\ud800.a.b", "é.é.é"])
def test_attestation_that_is_rubbish_is_refused_not_raised(rubbish: str) -> None:
    assert isinstance(verify(rubbish), Refusal)


def test_attestation_with_a_script_is_refused_once_demo_mode_ended() -> None:
    attested = {"unix.uid": "1000", "unix.script_digest": "sha-256:aa"}
    assertion = signed(claims(evidence=attested))
    assert isinstance(verify(assertion, settings=UnixProcessSettings(demo=True)), Evidence)
    assert isinstance(verify(assertion), Refusal)


def test_claims_leave_out_the_script_unless_demo_and_say_level_0_without_a_pidfd() -> None:
    facts = process(script_digest="sha-256:aa", exe=None)
    unpinned = PeerIdentity(facts, is_pinned=False)
    strict = attestation_claims(unpinned, issuer=ISSUER, provider="p", host="h", demo=False)
    demo = attestation_claims(unpinned, issuer=ISSUER, provider="p", host="h", demo=True)
    assert strict["level"] == 0
    assert "unix.script_digest" not in strict["evidence"]
    assert "unix.exe" not in strict["evidence"]
    assert demo["evidence"]["unix.script_digest"] == "sha-256:aa"


@pytest.mark.parametrize(
    ("unit", "host", "subject"),
    [
        ("bot@1.service", "laptop", "unix:laptop/1000/bot@1.service"),
        (None, "lap/top", "unix:lap%2Ftop/1000/-"),
    ],
)
def test_subject_names_host_user_and_unit_unambiguously(
    unit: str | None, host: str, subject: str
) -> None:
    assert subject_of(process(unit=unit), host) == subject


@pytest.mark.requirement("trap-user-unit")
@pytest.mark.parametrize(
    ("cgroup", "unit"),
    [
        ("/system.slice/bot.service", "bot.service"),
        ("/system.slice/system-bot.slice/bot@1.service", "bot@1.service"),
        ("/system.slice/docker-0a1b.scope/nested.service", "docker-0a1b.scope"),
        ("/user.slice/user-1000.slice/session-2.scope", "session-2.scope"),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/bot.service",
         "user@1000.service"),
        ("/", None),
        ("", None),
        ("/docker/0a1b", None),
        ("/../bot.service", None),
    ],
)  # fmt: skip
def test_unit_is_what_the_system_manager_named_never_what_a_user_did(
    cgroup: str, unit: str | None
) -> None:
    assert unit_of(cgroup) == unit


@pytest.mark.parametrize(
    ("arguments", "script"),
    [
        (["python3", "/srv/bot.py", "--x"], "/srv/bot.py"),
        (["/usr/bin/python3.11", "-u", "-X", "dev", "-W", "error", "bot.py"], "bot.py"),
        (["python3", "-m", "bot"], None),
        (["python3", "-c", "import bot"], None),
        (["python3", "-"], None),
        (["python3"], None),
        (["node", "--inspect", "bot.js"], "bot.js"),
        ([], None),
        (["sh", ""], None),
    ],
)
def test_script_is_the_first_argument_that_is_no_option(
    arguments: list[str], script: str | None
) -> None:
    assert script_of(arguments) == script


def declared(**types: str) -> dict[str, ProviderRecord]:
    return {name: ProviderRecord(name, of_type, {}) for name, of_type in types.items()}


def test_unverified_issuer_selects_exactly_the_verifier_of_its_provider() -> None:
    records = declared(local="unix_process", build="unix_process")
    verifiers = WorkloadVerifiers(lambda: records, workload_parts())
    chosen = verifiers(f"{ISSUER}/attest/build")
    assert chosen is not None
    assert chosen.issuer == f"{ISSUER}/attest/build"


@pytest.mark.requirement("attack-5")
@pytest.mark.parametrize(
    "issuer", ["", ISSUER, f"{ISSUER}/attest/", f"{ISSUER}/attest/none", f"{ISSUER}/attest/local/"]
)
def test_unverified_issuer_that_is_not_declared_selects_nothing(issuer: str) -> None:
    records = declared(local="unix_process")
    assert WorkloadVerifiers(lambda: records, workload_parts())(issuer) is None


@pytest.mark.requirement("attack-5")
def test_attestation_of_one_provider_is_refused_by_the_verifier_of_another() -> None:
    records = declared(local="unix_process", build="unix_process")
    verifier = WorkloadVerifiers(lambda: records, workload_parts())(f"{ISSUER}/attest/build")
    assert verifier is not None
    assert isinstance(asyncio.run(verifier.verify(signed(claims()), NOW)), Refusal)


def test_verifier_table_follows_the_declared_objects() -> None:
    records = declared(local="unix_process")
    verifiers = WorkloadVerifiers(lambda: records, workload_parts())
    first = verifiers(f"{ISSUER}/attest/local")
    assert first is verifiers(f"{ISSUER}/attest/local")
    records = declared(other="unix_process")
    assert verifiers(f"{ISSUER}/attest/local") is None
    assert verifiers(f"{ISSUER}/attest/other") is not None


@pytest.mark.requirement("attack-5")
def test_issuer_of_two_providers_selects_neither() -> None:
    local = ProviderRecord("local", "unix_process", {})
    records = {"local": local, "twin": local, "build": ProviderRecord("build", "unix_process", {})}
    verifiers = WorkloadVerifiers(lambda: records, workload_parts())
    assert verifiers(f"{ISSUER}/attest/local") is None
    assert verifiers(f"{ISSUER}/attest/build") is not None


def test_unusable_trust_provider_is_left_out_and_the_others_stay() -> None:
    records = declared(odd="no_such", local="unix_process")
    records["bad"] = ProviderRecord("bad", "unix_process", {"dmeo": True})
    verifiers = WorkloadVerifiers(lambda: records, workload_parts())
    assert verifiers(f"{ISSUER}/attest/bad") is None
    assert verifiers(f"{ISSUER}/attest/local") is not None


def test_listener_serves_exactly_the_declared_unix_process_providers() -> None:
    records = declared(local="unix_process", cluster="kubernetes")
    assert list(unix_process_providers(records)) == ["local"]
