"""Who breaks what, and the step of the story that must notice.

A saboteur is loaded into the child processes of one test by `sitecustomize.py`; the product has
no switch for it. Each is as sly as can be: whatever a break would make obvious elsewhere is made
to look right, so that only the step that proves the thing can fail. What each damage does stands
in `break_authority.py`, `break_enforcement.py` and `break_audit.py`, which import nothing of the
product before it does so itself.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tests.saboteurs import break_audit as audit
from tests.saboteurs import break_authority as authority
from tests.saboteurs import break_enforcement as enforcement


@dataclass(frozen=True)
class Saboteur:
    """Module → what is done to it, and the step that must fail."""

    step: str
    breaks: Mapping[str, Callable[[Any], None]]


SABOTEURS: Final[Mapping[str, Saboteur]] = {
    # The authorization server
    "attestation_names_no_key": Saboteur(
        "1 attest",
        {"idp_connectors.workload.attestation_listener": authority.attest_without_key},
    ),
    "any_password_will_do": Saboteur(
        "2 login", {"idp_connectors.workforce.password_hashing": authority.take_any_password}
    ),
    "consent_skipped": Saboteur(
        "3 consent", {"authz_server.authorize_flow": authority.skip_consent}
    ),
    "consent_widened": Saboteur(
        "4 token", {"authz_server.authorize_answers": authority.grant_more_than_consented}
    ),
    "endpoint_token_for_another_audience": Saboteur(
        "4 token", {"authz_server.endpoints.token": authority.sign_wrong_audience}
    ),
    "token_bound_to_no_key": Saboteur(
        "4 token", {"authz_server.endpoints.token": authority.sign_unbound}
    ),
    "lifetime_without_cap": Saboteur(
        "4 token", {"authz_server.grants.person_token": authority.live_an_hour}
    ),
    "target_lifetime_without_cap": Saboteur(
        "5 call crm/get_account",
        {"credential_providers.target_claims": authority.let_target_tokens_live_an_hour},
    ),
    "subject_not_pairwise": Saboteur(
        "5 call crm/get_account",
        {"credential_providers.issued_token": authority.tell_targets_our_own_id},
    ),
    "target_token_hides_the_agent": Saboteur(
        "5 call crm/get_account",
        {"credential_providers.issued_token": authority.forget_actor},
    ),
    "target_token_given_to_agents": Saboteur(
        "11 bypass", {"authz_server.endpoints.token": authority.give_agents_target_tokens}
    ),
    "authority_forgets_blocks": Saboteur("12 kill", {"registry.blocks": authority.block_nobody}),
    # The policy set
    "policy_always_allows": Saboteur(
        "8 call crm/refund 900", {"policies.decide": enforcement.allow_everything}
    ),
    "guard_lost_on_the_way": Saboteur(
        "8 call crm/refund 900", {"countersign.manifests": enforcement.lose_the_guard}
    ),
    "decision_shared_across_persons": Saboteur(
        "10 bob", {"policies.decide": enforcement.share_decisions}
    ),
    # The gateway
    "agents_token_forwarded": Saboteur(
        "5 call crm/get_account",
        {"mcp_gateway.exchange_client": enforcement.forward_the_agents_token},
    ),
    "ceiling_off": Saboteur(
        "9 call crm/delete_account", {"mcp_gateway.ceiling": enforcement.raise_the_ceiling}
    ),
    "credential_shared_across_persons": Saboteur(
        "10 bob", {"mcp_gateway.exchange_client": enforcement.share_credentials}
    ),
    "kill_never_applied": Saboteur(
        "12 kill", {"mcp_gateway.enforcement": enforcement.confirm_but_do_not_apply}
    ),
    "kill_never_published": Saboteur(
        "12 kill", {"authz_server.endpoints.control_events": enforcement.keep_revocations_back}
    ),
    "streams_survive_a_kill": Saboteur(
        "12 kill", {"mcp_gateway.open_calls": enforcement.let_open_calls_run}
    ),
    # The upstreams
    "server_echoes_its_key": Saboteur(
        "6 call notes/search",
        {"mcp.server.mcpserver.server": enforcement.echo_the_api_key},
    ),
    "server_echoes_its_key_and_nobody_looks": Saboteur(
        "6 call notes/search",
        {
            "mcp.server.mcpserver.server": enforcement.echo_the_api_key,
            "mcp_gateway.echo_guard": enforcement.look_away,
        },
    ),
    "server_takes_tokens_for_others": Saboteur(
        "11 bypass", {"jwt": enforcement.take_tokens_for_others}
    ),
    # The audit
    "intent_never_written": Saboteur(
        "5 call crm/get_account", {"mcp_gateway.audit_trail": audit.write_no_intent}
    ),
    "outcome_never_written": Saboteur(
        "13 audit", {"mcp_gateway.audit_trail": audit.write_no_outcome}
    ),
    "audit_loses_events": Saboteur("13 audit", {"audit_log.store": audit.lose_events}),
    "audit_loses_events_and_denies_it": Saboteur(
        "13 audit", {"audit_log.store": audit.lose_events_and_deny_it}
    ),
    "audit_truncated": Saboteur("13 audit", {"audit_log.store": audit.truncate}),
}
