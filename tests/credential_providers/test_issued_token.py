import asyncio

import msgspec
import pytest

from credential_providers.catalog import CredentialProviders
from credential_providers.request import CredentialRequest, IssuedCredential
from credential_providers.target_claims import pairwise_subject
from registry.snapshot import CredentialProviderEntry
from tests.credential_providers.samples import (
    AGENT_ACTOR,
    ALONE,
    BLENDED,
    CONTROL,
    GATEWAY,
    ISSUER,
    NOW,
    TARGET,
    gateway_actor,
    parts,
    plan,
    provider,
    request,
)
from token_exchange.claims import AccessTokenClaims, Actor, Refusal
from token_exchange.exchange_plan import ExchangePlan


def issue(asked: CredentialRequest) -> IssuedCredential | Refusal:
    return asyncio.run(CredentialProviders(parts()).issue(asked))


def issued(
    of: ExchangePlan | None = None, by: CredentialProviderEntry | None = None
) -> IssuedCredential:
    answer = issue(request(of, by))
    assert isinstance(answer, IssuedCredential)
    return answer


def test_issued_token_says_who_for_whom_through_which_gateway() -> None:
    claims = issued().claims
    assert (claims.iss, claims.aud, claims.client_id) == (ISSUER, TARGET, GATEWAY)
    assert claims.act == gateway_actor(AGENT_ACTOR)
    assert (claims.txn, claims.inv, claims.scope) == ("txn_1", "inv_1", "mcp:tools")
    assert claims.uctx is not None
    assert claims.uctx.groups == ("local/support",)
    assert claims.jti.startswith("tok_")


def test_issued_token_leaves_out_what_is_between_agent_and_gateway() -> None:
    claims = issued().claims
    assert (claims.sid, claims.gid, claims.cnf, claims.attn) == (None, None, None, None)


def test_issued_token_is_left_unsigned_for_the_token_endpoint() -> None:
    answer = issued()
    assert answer.credential_value is None
    assert answer.token_type == "Bearer"
    assert answer.issued_token_type == "urn:ietf:params:oauth:token-type:access_token"


@pytest.mark.requirement("trap-pairwise-target")
def test_issued_token_subject_of_a_person_differs_between_targets_and_is_stable() -> None:
    at_crm, at_notes = issued(), issued(plan(audience="https://notes.example.com"))
    assert at_crm.claims.sub.startswith("pws_")
    assert at_crm.claims.sub == issued().claims.sub
    assert at_crm.claims.sub != at_notes.claims.sub
    assert "alice" not in at_crm.claims.sub


def test_issued_token_with_one_sector_gives_both_targets_the_same_subject() -> None:
    shared = provider(settings={"sector": "example.com"})
    notes = plan(audience="https://notes.example.com")
    assert issued(by=shared).claims.sub == issued(notes, shared).claims.sub


def test_issued_token_with_public_subject_keeps_our_own_id() -> None:
    assert issued(by=provider(settings={"subject": "public"})).claims.sub == "usr_alice"


def test_issued_token_of_an_agent_alone_names_the_agent() -> None:
    claims = issued(plan(ALONE)).claims
    assert (claims.sub, claims.agent) == ("agent:support-bot", "support-bot")
    assert claims.act == gateway_actor(None)


@pytest.mark.requirement("attack-16")
@pytest.mark.parametrize(
    ("expires_at", "lifetime_seconds", "inbound_exp", "lives"),
    [
        (NOW + 9999, 9999, NOW + 9999, 300),
        (NOW + 9999, 120, NOW + 9999, 120),
        (NOW + 60, 300, NOW + 890, 60),
        (NOW + 300, 300, NOW + 7, 7),
    ],
)
def test_issued_token_lifetime_is_the_shortest_of_every_limit(
    expires_at: int, lifetime_seconds: int, inbound_exp: int, lives: int
) -> None:
    subject = expiring(inbound_exp)
    claims = issued(
        plan(subject, expires_at=expires_at), provider(lifetime_seconds=lifetime_seconds)
    ).claims
    assert claims.exp - claims.iat == lives


def test_issued_token_for_an_expired_subject_token_is_refused() -> None:
    answer = issue(request(plan(expiring(NOW))))
    assert isinstance(answer, Refusal)
    assert answer.code == "invalid_grant"


@pytest.mark.requirement("attack-17")
@pytest.mark.parametrize(
    "actor",
    [
        None,
        gateway_actor(None),
        gateway_actor(Actor("i", "s", "ai_agent", "other-bot")),
        Actor(iss=ISSUER, sub="gateway:other", sub_profile="service", act=AGENT_ACTOR),
    ],
)
def test_issued_token_with_another_actor_chain_is_refused(actor: Actor | None) -> None:
    answer = issue(request(plan(actor=actor)))
    assert isinstance(answer, Refusal)
    assert answer.rule == "credential.actor"


def test_discovery_token_is_the_gateways_own_and_short() -> None:
    claims = issued(plan(CONTROL, kind="discovery", user_context=None)).claims
    assert (claims.sub, claims.act, claims.uctx) == (GATEWAY, None, None)
    assert claims.exp - claims.iat == 60


@pytest.mark.parametrize("subject", [BLENDED, ALONE])
def test_discovery_with_anothers_token_is_refused(subject: AccessTokenClaims) -> None:
    answer = issue(request(plan(subject, kind="discovery")))
    assert isinstance(answer, Refusal)
    assert answer.rule == "credential.discovery"


@pytest.mark.requirement("attack-9")
def test_provider_bound_to_a_call_without_a_decision_id_is_refused() -> None:
    answer = issue(request(by=provider(binding="call")))
    assert isinstance(answer, Refusal)
    assert answer.code == "invalid_authorization_details"


def test_provider_bound_to_a_call_with_a_decision_id_issues() -> None:
    assert issued(plan(decision_id="dec_1"), provider(binding="call")).claims.sub


def test_provider_bound_to_a_call_lists_without_a_decision_id() -> None:
    assert issued(plan(CONTROL, kind="discovery"), provider(binding="call")).claims.sub == GATEWAY


@pytest.mark.parametrize(
    "broken", [provider("no_such_type"), provider(settings={"audience": "s3cret-looking"})]
)
def test_unusable_provider_is_refused_without_repeating_its_settings(
    broken: CredentialProviderEntry,
) -> None:
    answer = issue(request(by=broken))
    assert isinstance(answer, Refusal)
    assert answer.code == "invalid_target"
    assert "s3cret" not in answer.detail + answer.description


def test_pairwise_subject_keeps_sector_and_subject_apart() -> None:
    key = b"k" * 32
    assert pairwise_subject(key, "a:b", "c") != pairwise_subject(key, "a", "b:c")
    assert pairwise_subject(key, "a", "b") != pairwise_subject(b"l" * 32, "a", "b")


def test_pairwise_subject_with_a_short_key_raises() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        pairwise_subject(b"short", "a", "b")


def expiring(exp: int) -> AccessTokenClaims:
    return msgspec.structs.replace(BLENDED, exp=exp)
