"""Who may hold what (docs/architecture.md): what a client may ask for, and what is made for it.

Pure. Asked twice of every token request, before its grant and after: a grant that planned too much
is stopped here.
"""

from collections.abc import Mapping
from typing import Final

from authz_server.clients.self_declared import SELF_DECLARED_KINDS
from authz_server.compiled_snapshot import CompiledSnapshot
from authz_server.token_request import IssuancePlan, TokenRequest
from registry.clients import DOCUMENT_CLIENT
from registry.snapshot import ClientRecord
from token_exchange.delegation import acting_agent
from token_exchange.token_types import AudienceClass, SubjectProfile

# By kind of client, the classes of audience it may ask for.
ENTITLEMENTS: Final[Mapping[str, frozenset[AudienceClass]]] = {
    "agent": frozenset({AudienceClass.ENDPOINT}),
    "gateway": frozenset({AudienceClass.CONTROL, AudienceClass.TARGET}),
    "cli": frozenset({AudienceClass.ADMIN}),
    "declared": frozenset({AudienceClass.ENDPOINT}),
    DOCUMENT_CLIENT: frozenset({AudienceClass.ENDPOINT}),
}


def may_ask_for(record: ClientRecord) -> frozenset[AudienceClass]:
    """The classes of audience a client may name (phase 4).

    INVARIANT: a declared client that is no Agent's gets no gateway audience.
    """
    is_nobody = record.kind == "declared" and record.agent is None
    return frozenset() if is_nobody else ENTITLEMENTS[record.kind]


def may_hold(plan: IssuancePlan, request: TokenRequest, compiled: CompiledSnapshot) -> bool:
    """Whether the client of a request may hold the token a grant planned for it (phase 7).

    INVARIANT: whatever a grant planned, the table "Who may hold what" holds for the result.
    """
    claims, record = plan.claims, request.client.record
    kind = compiled.audience_class(claims.aud)
    is_own = claims.client_id == record.client_id and kind in may_ask_for(record)
    key = None if claims.cnf is None else claims.cnf.jkt
    if kind is AudienceClass.TARGET:
        fits = plan.subject_token is not None and key is None
    else:
        fits = key == request.proof_thumbprint and (
            key is not None or _takes_bearers(plan, compiled)
        )
    if kind is AudienceClass.ENDPOINT:
        fits = fits and acting_agent(claims) == record.agent is not None
    if kind is AudienceClass.ADMIN:
        fits = fits and claims.sub_profile == SubjectProfile.USER and claims.act is None
    return is_own and fits


def _takes_bearers(plan: IssuancePlan, compiled: CompiledSnapshot) -> bool:
    """Whether the audience is an endpoint whose server does not require bound tokens."""
    _, name = compiled.endpoints.get(plan.claims.aud, ("", ""))
    server = compiled.snapshot.servers.get(name)
    is_self_declared = plan.client.record.kind in SELF_DECLARED_KINDS
    return is_self_declared and server is not None and not server.require_bound
