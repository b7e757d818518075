"""X.509-SVIDs: which chains are one of a trust domain, and which only look like it."""

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import example, given
from hypothesis import strategies as st

from idp_connectors.workload.spiffe_x509 import (
    MAXIMUM_CERTIFICATES,
    X509Svid,
    unverified_trust_domain,
    verify_x509_svid,
)
from tests.idp_connectors.trust_domains import NOW, TrustDomain, authority, usage
from token_exchange.claims import Refusal

PROD = TrustDomain("prod.example.com")
LAB = TrustDomain("lab.example.com")
ID = "spiffe://prod.example.com/bot"

pytestmark = pytest.mark.requirement("spiffe-x509-svid")


def judge(
    chain: list[bytes], *, now: int = NOW, domain: TrustDomain = PROD, trusted: int = 1
) -> X509Svid | Refusal:
    return verify_x509_svid(
        chain,
        trust_domain=domain.name,
        authorities=[domain.authority.certificate] * trusted,
        now=now,
    )


def rule_of(judged: X509Svid | Refusal) -> str:
    assert isinstance(judged, Refusal), judged
    assert judged.code == "invalid_client"
    assert "CERTIFICATE" not in judged.detail
    return judged.rule


def test_svid_of_the_trust_domain_is_one() -> None:
    found = judge(PROD.x509_svid())
    assert isinstance(found, X509Svid)
    assert str(found.spiffe_id) == ID
    assert (found.issued_at, found.expires_at) == (NOW - 10, NOW + 3600)


def test_svid_of_an_intermediate_is_one_only_with_it() -> None:
    below = authority(PROD.name, PROD.authority)
    chain = PROD.x509_svid(below=below)
    assert isinstance(judge(chain), X509Svid)
    assert rule_of(judge(chain[:1])) == "spiffe.chain"


def test_authority_that_another_one_signed_is_an_anchor() -> None:
    domain = TrustDomain(PROD.name)
    domain.authority = authority(PROD.name, PROD.authority)
    assert isinstance(judge(domain.x509_svid(), domain=domain), X509Svid)
    assert rule_of(judge(PROD.x509_svid(), domain=domain)) == "spiffe.chain"


@pytest.mark.requirement("attack-5")
@pytest.mark.parametrize(
    ("uris", "rule"),
    [
        ([], "spiffe.subject"),
        ([ID, "spiffe://prod.example.com/other"], "spiffe.subject"),
        ([ID, "https://prod.example.com/"], "spiffe.subject"),
        ([ID, ID], "spiffe.subject"),
        (["https://prod.example.com/bot"], "spiffe.subject"),
        (["spiffe://prod.example.com"], "spiffe.subject"),
        (["spiffe://prod.example.com/"], "spiffe.subject"),
        (["spiffe://prod.example.com/a/../bot"], "spiffe.subject"),
        (["spiffe://PROD.example.com/bot"], "spiffe.subject"),
        (["spiffe://lab.example.com/bot"], "spiffe.subject"),
    ],
)
def test_name_that_is_not_one_spiffe_id_of_the_domain_is_refused(
    uris: list[str], rule: str
) -> None:
    assert rule_of(judge(PROD.x509_svid(uris=uris))) == rule
    assert isinstance(judge(PROD.x509_svid(uris=[ID])), X509Svid)


def test_other_kinds_of_names_are_allowed_beside_it() -> None:
    chain = PROD.x509_svid(names=[x509.DNSName("bot.prod.example.com")])
    assert isinstance(judge(chain), X509Svid)


@pytest.mark.requirement("attack-5")
def test_foreign_domains_authority_speaks_for_itself_alone() -> None:
    assert rule_of(judge(LAB.x509_svid(uris=[ID]))) == "spiffe.chain"
    assert rule_of(judge(LAB.x509_svid())) == "spiffe.subject"
    # Its authority sent along as if it were an intermediate of ours.
    along = [*LAB.x509_svid(uris=[ID]), LAB.authority.der]
    assert rule_of(judge(along)) == "spiffe.chain"
    assert isinstance(judge(LAB.x509_svid(), domain=LAB), X509Svid)


def test_leaf_must_not_sign_others() -> None:
    signer = usage(digital_signature=True, key_cert_sign=True)
    for chain in (
        PROD.x509_svid(ca=True),
        PROD.x509_svid(ca=True, key_usage=signer),
        PROD.x509_svid(key_usage=signer),
        PROD.x509_svid(key_usage=usage(digital_signature=True, crl_sign=True)),
        PROD.x509_svid(key_usage=usage(key_encipherment=True)),
        PROD.x509_svid(usage_is_critical=False),
    ):
        assert rule_of(judge(chain)) == "spiffe.leaf"


def test_leaf_below_another_workloads_svid_is_refused() -> None:
    workload = authority(PROD.name, PROD.authority)
    as_leaf = PROD.x509_svid(path="/mallory", key=workload.key)
    below = PROD.x509_svid(below=workload)[:1]
    assert rule_of(judge([*below, *as_leaf])) == "spiffe.chain"


def test_extended_usage_must_allow_clients() -> None:
    assert rule_of(judge(PROD.x509_svid(extended=[ExtendedKeyUsageOID.SERVER_AUTH]))) == (
        "spiffe.chain"
    )
    assert isinstance(judge(PROD.x509_svid(extended=[ExtendedKeyUsageOID.CLIENT_AUTH])), X509Svid)


@pytest.mark.parametrize("now", [NOW - 11, NOW + 3601, NOW + 10**9])
def test_time_outside_its_life_is_refused(now: int) -> None:
    assert rule_of(judge(PROD.x509_svid(), now=now)) == "spiffe.chain"
    assert isinstance(judge(PROD.x509_svid(), now=NOW + 3599), X509Svid)


def test_without_authorities_nothing_is_an_svid() -> None:
    assert rule_of(judge(PROD.x509_svid(), trusted=0)) == "spiffe.bundle"


@pytest.mark.parametrize(
    "chain",
    [
        [],
        [b""],
        [b"not a certificate"],
        [b"\x30\x82" * 20_000],
        PROD.x509_svid() * (MAXIMUM_CERTIFICATES + 1),
        [*PROD.x509_svid(), b"junk"],
    ],
)
def test_what_is_no_chain_is_refused(chain: list[bytes]) -> None:
    assert rule_of(judge(chain)) == "spiffe.certificate"
    named = unverified_trust_domain(chain)
    assert isinstance(named, Refusal)


def test_claimed_trust_domain_is_that_of_the_leaf() -> None:
    assert unverified_trust_domain(PROD.x509_svid()) == "prod.example.com"


VALID = PROD.x509_svid()[0]


@pytest.mark.requirement("attack-30")
@pytest.mark.filterwarnings("ignore:Parsed a serial number")  # a later step refuses it
@example(at=VALID.index(b"\xa0\x03\x02\x01\x02") + 4, byte=1, cut=len(VALID))  # another version
@given(
    at=st.integers(0, len(VALID) - 1),
    byte=st.integers(0, 255),
    cut=st.one_of(st.just(len(VALID)), st.integers(0, len(VALID))),
)
def test_changed_certificate_is_refused_and_nothing_breaks(at: int, byte: int, cut: int) -> None:
    changed = (VALID[:at] + bytes([byte]) + VALID[at + 1 :])[:cut]
    judged = judge([changed])
    assert isinstance(judged, Refusal) or changed == VALID
