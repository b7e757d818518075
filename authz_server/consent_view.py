"""What the consent page says of a request: who asks for what, and for how long.

It names person, agent (the registered Agent, not what a client calls itself), its owner, how it
must prove itself, the server, and every tool with what it may do. `marks_of` is the same in short,
for the form to carry: who answers an outdated page is asked again (`endpoints.consent`).
"""

from hashlib import sha256
from typing import Final

from authz_server.authorize_flow import consent_token
from authz_server.clients.metadata_document import host_of
from authz_server.clients.self_declared import level_of
from authz_server.pages.pages import ConsentView, ProgramLine, ToolLine
from authz_server.pages.tool_words import CARE, described, place_of
from authz_server.parts import Parts
from authz_server.redirect_uris import is_loopback_redirect, origin_of
from authz_server.requested_access import (
    SCOPE_OFFLINE,
    Grantable,
    name_of_client,
    shown_tools,
)
from authz_server.store.interactions import Interaction
from authz_server.store.sessions import Session
from registry.clients import DOCUMENT_CLIENT, PRIVATE_KEY_JWT
from registry.snapshot import AgentRecord, ClientRecord

MARK_CHARACTERS: Final = 32  # 128 bits; with a token's most tools the form stays below its limit


def consent_view(
    parts: Parts,
    interaction: Interaction,
    session: Session,
    granted: Grantable,
) -> ConsentView:
    """The page for this request, in this session: what would be granted now, and nothing else."""
    asked = interaction.request
    client = None if granted.endpoint is None else granted.endpoint.unattested
    origin = origin_of(asked.redirect_uri)
    agent = None if granted.endpoint is None else granted.endpoint.agent
    return ConsentView(
        action=f"{parts.issuer}/oauth/consent",
        interaction_id=interaction.interaction_id,
        csrf_token=consent_token(parts, interaction, session),
        person=session.person.name,
        identity_provider=session.person.identity_provider,
        client_name=name_of_client(parts.live.snapshot, asked),
        program=None if client is None else _program(client, asked.redirect_uri),
        destination=origin or asked.redirect_uri,
        origin=origin,
        server="" if asked.server is None else asked.server,
        server_place="" if granted.endpoint is None else place_of(granted.endpoint.server.url),
        agent=None if agent is None else agent.entry.name,
        owner="" if agent is None else agent.owner,
        environment="" if agent is None else agent.entry.environment,
        minimum_level=0 if agent is None else agent.entry.minimum_level,
        days=0 if agent is None else agent.consent_days,
        tools=_tool_lines(granted),
        offline=SCOPE_OFFLINE in asked.scope.split(),
        shown=" ".join(marks_of(granted)),
        applications=() if agent is None else _applications(agent),
        by_mandate=agent is not None and agent.by_mandate,
    )


def _applications(agent: AgentRecord) -> tuple[str, ...]:
    """From where the agent may bring a person's tokens, as the page names it."""
    return tuple(
        f"{client_id} ({rule.identity_provider})"
        for rule in agent.subject_tokens
        for client_id in rule.client_ids
    )


def _program(client: ClientRecord, redirect_uri: str) -> ProgramLine:
    host = host_of(client.client_id) if client.kind == DOCUMENT_CLIENT else None
    level = level_of(client)
    proof = "by its own word only" if level == 0 else f"by who owns {host} only"
    if PRIVATE_KEY_JWT in client.authentication:
        proof = (
            "by a key that was registered for it" if host is None else f"by a key of {host} only"
        )
    return ProgramLine(
        name=client.display_name,
        host=host,
        proof=proof,
        level=level,
        stays_here=is_loopback_redirect(redirect_uri),
        only_here=all(map(is_loopback_redirect, client.redirect_uris)),
    )


def marks_of(granted: Grantable) -> tuple[str, ...]:
    """For each tool a digest of all the page says that a person relies on.

    The person's own form carries them, so they need no key: the form token proves whose it is.
    """
    if granted.endpoint is None:
        return ()
    days = granted.endpoint.agent.consent_days
    return tuple(
        sha256(f"{days} {name} {shown}".encode()).hexdigest()[:MARK_CHARACTERS]
        for name, shown in shown_tools(granted.endpoint, granted.tools).items()
    )


def _tool_lines(granted: Grantable) -> tuple[ToolLine, ...]:
    if granted.endpoint is None:
        return ()
    return tuple(
        ToolLine(tool.name, tool.read_only, CARE[tool.sensitivity], described(tool.definition))
        for tool in granted.endpoint.server.tools
        if tool.name in granted.tools
    )
