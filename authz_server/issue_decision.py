"""What our own policies are asked before a credential is made. Pure: token and registry in.

The agent is the one the subject token names, with the registry's groups of today, not the
gateway's word; the level is what its attestation proved. An agent the registry no longer has
gives no request, and so no credential.
"""

from authz_server.compiled_snapshot import CompiledSnapshot
from policies.entities import AgentFacts, IssueRequest, RunFacts, UserFacts
from registry.blocks import agents_of_chain
from token_exchange.claims import AccessTokenClaims
from token_exchange.exchange_plan import ExchangePlan
from token_exchange.token_types import DETAIL_TOOL, SubjectProfile


def issue_request_for(
    plan: ExchangePlan, compiled: CompiledSnapshot, *, now_ms: int
) -> IssueRequest | None:
    """The question `issue_credential`, or None when its agent is not registered."""
    subject = plan.subject
    agent = compiled.snapshot.agents.get(plan.agent or "")
    server = compiled.snapshot.servers.get(plan.server)
    if agent is None or server is None:
        return None
    attestation = subject.attn
    return IssueRequest(
        agent=AgentFacts(
            name=agent.entry.name,
            groups=agent.entry.groups,
            environment=agent.entry.environment,
            level=0 if attestation is None else attestation.level,
            method="none" if attestation is None else attestation.method,
        ),
        user=_user(subject),
        run=_run(subject, compiled),
        now_ms=now_ms,
        server=server.name,
        provider=server.credential.name,
        provider_type=server.credential.type,
        ttl_seconds=plan.lifetime_seconds,
        scopes=tuple(plan.scope.split()),
        audience=plan.audience,
        details_name_server=any(
            detail.type == DETAIL_TOOL and detail.server == server.name
            for detail in subject.authorization_details
        ),
    )


def _user(subject: AccessTokenClaims) -> UserFacts | None:
    if subject.sub_profile != SubjectProfile.USER:
        return None
    context = subject.uctx
    if context is None:
        return UserFacts(subject.sub)
    return UserFacts(subject.sub, context.groups, context.acr, context.auth_time)


def _run(subject: AccessTokenClaims, compiled: CompiledSnapshot) -> RunFacts:
    # The first is the agent that calls; the others called it.
    upstream = agents_of_chain(subject.act, subject.agent)[1:]
    context = subject.uctx
    return RunFacts(
        session=subject.sid,
        invocation=subject.inv,
        transaction=subject.txn,
        chain=upstream,
        chain_groups=tuple(
            dict.fromkeys(
                group for name in upstream for group in compiled.agent_groups.get(name, ())
            )
        ),
        purpose=None if context is None else context.purpose,
        ticket=None if context is None else context.ticket,
    )
