"""client_credentials (RFC 6749 §4.4): an attested agent alone, or a gateway for its control token.

An agent: it may act without a person · exactly one resource, an endpoint whose server Agent.tools
names · scope `mcp:tools` or none · details cut to Agent.tools. With `invocation_token`, a token it
has of a run by that key, the run goes on instead of a new one beginning (decision 0015), unless
anything that token depends on was cut off since. A gateway: exactly the control audience, no
scope. Nobody else, and no other audience: targets and administration are refused before a grant is
asked. Left out: policy, which decides each call at the gateway.
"""

from dataclasses import replace
from typing import Final

from authz_server.clients.run_token import RunToken, run_token
from authz_server.compiled_snapshot import CompiledSnapshot, control_audience
from authz_server.issuing.access_token import (
    NewToken,
    agent_alone_claims,
    control_claims,
    details_at,
)
from authz_server.parts import Parts
from authz_server.token_request import IssuancePlan, TokenRequest
from registry.blocks import BlockKind, Subject, subjects_of
from token_exchange.authorization_details import parse_authorization_details
from token_exchange.claims import AccessTokenClaims, AuthorizationDetail, JwkThumbprint, Refusal
from token_exchange.narrowing import details_intersection, parse_scope
from token_exchange.token_types import DETAIL_TOOL, SCOPE_TOOLS

MAXIMUM_PAUSE_SECONDS: Final = 28_800  # a run goes on after its token's end: a working day

_NOT_ALONE: Final = Refusal(
    "unauthorized_client",
    "This agent may not act without a person.",
    "acts_alone is false",
    "client_credentials.alone",
)
_NOBODY: Final = Refusal(
    "unauthorized_client",
    "This client may not use this grant.",
    "neither an attested agent nor a gateway",
    "client_credentials.client",
)
_TARGET: Final = Refusal(
    "invalid_target",
    "Exactly one resource this client may ask for must be named.",
    "not one resource, or one that is not for this client",
    "client_credentials.resource",
)
_SCOPE: Final = Refusal(
    "invalid_scope",
    "The scope is not one this client may have.",
    "a scope other than mcp:tools, or any for a gateway",
    "client_credentials.scope",
)
_DETAILS: Final = Refusal(
    "invalid_authorization_details",
    "The authorization_details are not within what this client may have.",
    "nothing left within Agent.tools, or another type or server",
    "client_credentials.details",
)
_OTHER_RUN: Final = Refusal(
    "invalid_grant",
    "The invocation_token is not of a run of this agent alone, by this key, today.",
    "a person's, another agent's, another key's, too old or no token of ours",
    "client_credentials.run",
)


async def grant(request: TokenRequest, parts: Parts) -> IssuancePlan | Refusal:
    """A token for an agent alone or for a gateway."""
    key = request.proof_thumbprint
    if len(request.resource) != 1:
        return _TARGET
    if key is None:  # the shared phase has refused this already
        return _NOBODY
    compiled = await parts.compiler.compiled(parts.live.snapshot)
    if request.client.record.kind == "gateway":
        return _control_token(request, parts, key)
    return _agent_token(request, parts, compiled, key)


def _control_token(
    request: TokenRequest, parts: Parts, key: JwkThumbprint
) -> IssuancePlan | Refusal:
    if request.resource[0] != control_audience(parts.issuer):
        return _TARGET
    if request.parameters.get("scope"):
        return _SCOPE
    if request.parameters.get("authorization_details"):
        return _DETAILS
    if request.parameters.get("invocation_token"):
        return _OTHER_RUN
    claims = control_claims(_new(request, parts, key), request.client.record)
    return IssuancePlan(claims=claims, client=request.client)


def _agent_token(
    request: TokenRequest, parts: Parts, compiled: CompiledSnapshot, key: JwkThumbprint
) -> IssuancePlan | Refusal:
    client, evidence = request.client.record, request.client.evidence
    agent = compiled.snapshot.agents.get(client.agent or "")
    if agent is None or evidence is None:
        return _NOBODY
    if not agent.may_act_alone:
        return _NOT_ALONE
    _, server = compiled.endpoints.get(request.resource[0], ("", ""))
    details = _details_of(request, details_at(agent, server))
    if isinstance(details, Refusal):
        return details
    run = _run_of(request, parts, compiled, key)
    if isinstance(run, Refusal):
        return run
    before = None if run is None else run.claims
    new = _new(request, parts, key)
    claims = agent_alone_claims(new, agent, client, evidence, details, run=before)
    # INVARIANT: a run that was cut off, or whose token is from before an epoch, never goes on.
    return IssuancePlan(
        claims=claims,
        client=request.client,
        target_service=server,
        depends_on=() if before is None else _dependencies(before, compiled),
    )


def _dependencies(
    before: AccessTokenClaims, compiled: CompiledSnapshot
) -> tuple[tuple[Subject, int], ...]:
    """What the run's earlier token depended on, but for that token itself."""
    subjects = subjects_of(before, compiled.agent_groups)
    return tuple((each, before.iat) for each in subjects if each.kind is not BlockKind.TOKEN)


def _run_of(
    request: TokenRequest, parts: Parts, compiled: CompiledSnapshot, key: JwkThumbprint
) -> RunToken | Refusal | None:
    """The run that is to go on; None where a new one begins."""
    unverified_token = request.parameters.get("invocation_token")
    if unverified_token is None:
        return None
    run = run_token(unverified_token, parts, compiled, request.now)
    if isinstance(run, Refusal):
        return replace(_OTHER_RUN, detail=f"{run.rule}: {run.detail}")
    is_own = run.claims.act is None and run.agent == request.client.record.agent
    # INVARIANT: shorter than blocks of runs are remembered (`registry.blocks.FORGET_SECONDS`).
    is_recent = request.now < run.claims.exp + MAXIMUM_PAUSE_SECONDS
    return run if is_own and is_recent and run.key == key else _OTHER_RUN


def _new(request: TokenRequest, parts: Parts, key: JwkThumbprint) -> NewToken:
    return NewToken(
        issuer=parts.issuer,
        audience=request.resource[0],
        key=key,
        now=request.now,
        random=parts.random,
    )


def _details_of(
    request: TokenRequest, mine: tuple[AuthorizationDetail, ...]
) -> tuple[AuthorizationDetail, ...] | Refusal:
    """What was asked for, cut to what the agent may have; all of it when nothing was asked."""
    if not mine:
        return _TARGET
    scope = parse_scope(request.parameters.get("scope", ""))
    if isinstance(scope, Refusal) or not scope <= {SCOPE_TOOLS}:
        return _SCOPE
    encoded = request.parameters.get("authorization_details")
    if encoded is None:
        return mine
    asked = parse_authorization_details(encoded)
    if isinstance(asked, Refusal):
        return asked
    if any(each.type != DETAIL_TOOL or each.server != mine[0].server for each in asked):
        return _DETAILS
    return details_intersection(mine, asked) or _DETAILS
