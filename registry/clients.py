"""The OAuth clients of a snapshot: the declared ones, and those that nobody declares. Pure.

Built in are the implicit client of each Agent (which authenticates by attestation only), the client
of each Gateway (with the keys that enrolled into it) and the command line's.
"""

from collections.abc import Mapping
from typing import Final

from registry.declared import DeclaredSet, ParsedObject
from registry.public_keys import public_jwk
from registry.references import CLI_CLIENT_ID
from registry.snapshot import AgentRecord, ClientRecord, GatewayEntry
from token_exchange.token_types import (
    GRANT_AUTHORIZATION_CODE,
    GRANT_CLIENT_CREDENTIALS,
    GRANT_REFRESH_TOKEN,
    GRANT_TOKEN_EXCHANGE,
)

DOCUMENT_CLIENT: Final = "document"  # of a client id metadata document: never in a snapshot
CLI_REDIRECT_URI: Final = "http://127.0.0.1/callback"  # any port: RFC 8252 §7.3
WORKLOAD_ASSERTION: Final = "workload_assertion"
WORKLOAD_CERTIFICATE: Final = "workload_certificate"
PRIVATE_KEY_JWT: Final = "private_key_jwt"
NO_AUTHENTICATION: Final = "none"


def clients_of(
    declared: DeclaredSet,
    agents: Mapping[str, AgentRecord],
    gateways: Mapping[str, GatewayEntry],
) -> dict[str, ClientRecord]:
    """Every client by its id."""
    owner_of = {
        client_id: name for name, agent in agents.items() for client_id in agent.client_ids[1:]
    }
    clients = [
        _declared_client(each, owner_of, agents)
        for each in declared.of_kind("OAuthClient").values()
    ]
    clients += [_agent_client(agent) for agent in agents.values() if agent.providers]
    clients += [_gateway_client(gateway) for gateway in gateways.values()]
    clients.append(_cli_client())
    return {client.client_id: client for client in clients}


def _declared_client(
    parsed: ParsedObject, owner_of: Mapping[str, str], agents: Mapping[str, AgentRecord]
) -> ClientRecord:
    spec = parsed.spec
    owner = owner_of.get(parsed.name)
    keys = spec.jwks["keys"] if spec.jwks else ()
    return ClientRecord(
        client_id=parsed.name,
        kind="declared",
        display_name=spec.display_name,
        redirect_uris=spec.redirect_uris,
        authentication=(spec.token_endpoint_auth_method,),
        grant_types=_declared_grants(spec.grant_types, None if owner is None else agents[owner]),
        agent=owner,
        jwks=tuple(public_jwk(key) for key in keys),
    )


def _declared_grants(declared: tuple[str, ...], owner: AgentRecord | None) -> tuple[str, ...]:
    """What is declared, as far as its agent has it; whoever gets codes may refresh."""
    if owner is None:
        return declared
    allowed = grants_of(owner)
    refresh = (GRANT_REFRESH_TOKEN,) if GRANT_AUTHORIZATION_CODE in declared else ()
    return tuple(grant for grant in (*declared, *refresh) if grant in allowed)


def _agent_client(agent: AgentRecord) -> ClientRecord:
    return ClientRecord(
        client_id=agent.entry.name,
        kind="agent",
        display_name=agent.entry.name,
        redirect_uris=agent.redirect_uris,
        authentication=(WORKLOAD_ASSERTION, WORKLOAD_CERTIFICATE),
        grant_types=grants_of(agent),
        agent=agent.entry.name,
    )


def grants_of(agent: AgentRecord) -> tuple[str, ...]:
    """An agent that acts for nobody asks nobody; one that must not act alone never does."""
    for_person = (GRANT_AUTHORIZATION_CODE, GRANT_REFRESH_TOKEN) if agent.acts_for_groups else ()
    alone = (GRANT_CLIENT_CREDENTIALS,) if agent.may_act_alone else ()
    presenting = (GRANT_TOKEN_EXCHANGE,) if agent.subject_tokens else ()
    return (*for_person, *alone, *presenting)


def _gateway_client(gateway: GatewayEntry) -> ClientRecord:
    return ClientRecord(
        client_id=gateway.client_id,
        kind="gateway",
        display_name=gateway.name,
        redirect_uris=(),
        authentication=(PRIVATE_KEY_JWT,),
        grant_types=(GRANT_CLIENT_CREDENTIALS, GRANT_TOKEN_EXCHANGE),
        gateway=gateway.name,
        jwks=gateway.jwks,
    )


def _cli_client() -> ClientRecord:
    return ClientRecord(
        client_id=CLI_CLIENT_ID,
        kind="cli",
        display_name="Countersign command line",
        redirect_uris=(CLI_REDIRECT_URI,),
        authentication=(NO_AUTHENTICATION,),
        grant_types=(GRANT_AUTHORIZATION_CODE,),
    )
