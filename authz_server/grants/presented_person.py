"""Whom a subject token of an identity provider speaks for, when an agent presents it.

In this order: there is one token, of a type · it says an issuer, and the Agent lists exactly one
provider of it, with that type (the unverified issuer selects the verifier, never a key) · the
provider is declared, and not one that must be watched and cannot be · its connector accepts the
token: signature, kind, client, age · it is of that provider's own people, with its own groups · the
agent acts for one of them.

The agent learns one sentence whatever it was; the audit learns which. Left out: consent, blocks.
"""

from dataclasses import replace
from typing import Final

import anyio

from authz_server.parts import Parts
from authz_server.requested_access import acts_for
from authz_server.token_request import RefusedForPerson, TokenRequest
from idp_connectors.workforce.login import PersonToken, VerifiesPersonTokens
from registry.snapshot import AgentRecord, SubjectTokenRule
from token_exchange.claims import Refusal
from token_exchange.token_types import TOKEN_TYPE_ACCESS_TOKEN, TOKEN_TYPE_ID_TOKEN
from token_exchange.verify import unverified_claims

VERIFY_SECONDS: Final = 12.0  # metadata and keys, each with its own shorter limit

_TYPES: Final = {
    TOKEN_TYPE_ID_TOKEN: "id_token",
    TOKEN_TYPE_ACCESS_TOKEN: "access_token",
}
_NOW: Final = "temporarily_unavailable"


def unusable(rule: str, detail: str) -> Refusal:
    """A refusal of the subject token: one sentence for every cause (RFC 8693 §2.2.2)."""
    description = "The subject_token cannot be used by this request."
    return Refusal("invalid_request", description, detail, f"blend.{rule}")


NO_TOKEN: Final = unusable("subject_token", "no subject_token or subject_token_type")
NOT_LISTED: Final = unusable("not_listed", "no subject_tokens of the Agent are of its issuer")
TYPE_NOT_LISTED: Final = unusable("type", "subject_tokens lists no tokens of this type")
NO_PROVIDER: Final = unusable("provider", "the provider is not declared, or verifies no tokens")
OTHER_PROVIDER: Final = unusable("provider", "the provider answered for another provider")
UNAVAILABLE: Final = Refusal(
    _NOW,
    "The person's identity provider cannot be asked now. Try again.",
    "verification timed out",
    "blend.unavailable",
)
UNWATCHED: Final = Refusal(
    _NOW,
    UNAVAILABLE.description,
    "what changes at the provider could not be read for longer than declared",
    "blend.unwatched",
)


async def presented_person(
    request: TokenRequest, agent: AgentRecord, parts: Parts
) -> PersonToken | Refusal | RefusedForPerson:
    """The verified subject token, of somebody this agent may act for."""
    token = request.parameters.get("subject_token")
    token_type = request.parameters.get("subject_token_type")
    if token is None or token_type is None:
        return NO_TOKEN
    rule = _rule_for(token, token_type, agent, parts)
    if isinstance(rule, Refusal):
        return rule
    found = await _verified(token, token_type, rule, request.now, parts)
    if isinstance(found, Refusal):
        return found
    # INVARIANT: no provider speaks for another's people or groups, whatever its connector says.
    person, prefix = found.person, f"{rule.identity_provider}/"
    if person.identity_provider != rule.identity_provider:
        return OTHER_PROVIDER
    own = tuple(group for group in person.groups if group.startswith(prefix))
    person = replace(person, groups=own)
    if acts_for(agent, person):
        return replace(found, person=person)
    known = await parts.persons.known(person)
    refusal = unusable("not_in_group", "no group of the person is in acts_for")
    return RefusedForPerson(refusal, None if known is None else known.sub, person.name)


def _rule_for(
    unverified_token: str, token_type: str, agent: AgentRecord, parts: Parts
) -> SubjectTokenRule | Refusal:
    unverified = unverified_claims(unverified_token, refuse_as="invalid_request")
    if isinstance(unverified, Refusal):
        return unusable("form", f"{unverified.rule}: {unverified.detail}")
    providers = parts.live.snapshot.identity_providers
    rules = [
        rule
        for rule in agent.subject_tokens
        if rule.identity_provider in providers
        and providers[rule.identity_provider].settings.get("issuer") == unverified.issuer
    ]
    if len(rules) != 1:
        return NOT_LISTED
    return rules[0] if _TYPES.get(token_type) in rules[0].types else TYPE_NOT_LISTED


async def _verified(
    unverified_token: str, token_type: str, rule: SubjectTokenRule, now: int, parts: Parts
) -> PersonToken | Refusal:
    if rule.identity_provider in parts.unwatched:
        return UNWATCHED
    connector: object = parts.person_logins().get(rule.identity_provider)
    if not isinstance(connector, VerifiesPersonTokens):
        return NO_PROVIDER
    try:
        with anyio.fail_after(VERIFY_SECONDS):
            found = await connector.verify_person_token(
                unverified_token, token_type, rule.client_ids, rule.max_age_seconds, now
            )
    except TimeoutError:
        return UNAVAILABLE
    if not isinstance(found, Refusal):
        # Again after the wait: who cannot be watched now is not believed now.
        return UNWATCHED if rule.identity_provider in parts.unwatched else found
    if found.code == _NOW:
        return replace(UNAVAILABLE, detail=found.detail)
    return replace(unusable("token", found.detail), rule=found.rule)
