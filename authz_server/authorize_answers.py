"""The answers that end an authorization request: a code, or a refusal to the client or the person.

Each is given once per request: whoever finishes the interaction first answers it, and everybody
else learns that it is not open any more. No answer is given whose event is not written. Whether an
answer is right is decided before (`authorize_flow`, the consent page); nothing is checked again.
"""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

from sqlalchemy import Connection
from starlette.responses import Response

from audit_log.event import EventType, Outcome, PrincipalKind
from audit_log.transaction_log import append_in
from authz_server.answered_pages import nothing_given_page, stored_page
from authz_server.audit_events import made, record_refusal
from authz_server.errors import (
    error_page,
    linked_error_page,
    redirect_error,
    redirect_to_client,
    response_uri,
)
from authz_server.pages.pages import Message, message_page
from authz_server.parts import Parts, now_of
from authz_server.requested_access import Grantable, name_of_client
from authz_server.store.codes import CodeGrant, save_in
from authz_server.store.consents import Consent
from authz_server.store.digests import new_secret
from authz_server.store.interactions import AuthorizationRequest, Interaction
from authz_server.store.sessions import Session
from token_exchange.authorization_details import ACTION_CALL
from token_exchange.claims import AuthorizationDetail, Refusal
from token_exchange.identifiers import new_id
from token_exchange.token_types import DETAIL_TOOL

NOT_OPEN_HERE: Final = Refusal(
    "invalid_request",
    "This request is not open in this browser: it was answered, it is too old, or it was started "
    "elsewhere. Start again from the program that sent you here.",
    "interaction unknown, finished, expired or of another browser",
    "interaction.not_open",
)


async def send_code(
    parts: Parts,
    interaction: Interaction,
    session: Session,
    granted: Grantable,
    consent: Consent | None,
    *,
    also: Callable[[Connection], None] = lambda _: None,
) -> Response:
    """Answer the request: make a code and send the browser back with it.

    INVARIANT: the answer, what `also` does, the code and its record are one transaction. So there
    is one code per request, none that the audit does not know, and an answer that could not be
    written may be given again.
    """
    request, now_ms = interaction.request, int(parts.clock() * 1000)
    code = new_secret(parts.random)
    grant = _code_grant(parts, interaction, session, granted, consent)
    event = made(
        parts,
        EventType.CODE_ISSUED,
        Outcome.SUCCEEDED,
        **parties(request, session),
        consent=grant.gid,
        invocation=grant.invocation,
        transaction=grant.transaction,
    )

    def in_transaction(connection: Connection) -> None:
        also(connection)
        if not request.consent_only:
            save_in(connection, code, grant)
            append_in(connection, (event,), now_ms)

    if not await parts.interactions.finish(
        interaction.interaction_id, now_ms // 1000, also=in_transaction
    ):
        return await _answered_already(parts, request, session)
    if request.consent_only:
        return stored_page(parts, request)
    return redirect_to_client(
        {"code": code}, redirect_uri=request.redirect_uri, state=request.state, issuer=parts.issuer
    )


def _code_grant(
    parts: Parts,
    interaction: Interaction,
    session: Session,
    granted: Grantable,
    consent: Consent | None,
) -> CodeGrant:
    request, ends = interaction.request, session.expires_at
    return CodeGrant(
        client_id=request.client_id,
        agent=request.agent,
        redirect_uri=request.redirect_uri,
        code_challenge=request.code_challenge,
        resource=request.resource,
        scope=request.scope,
        details=_details(granted),
        nonce=request.nonce,
        dpop_jkt=request.dpop_jkt,
        sub=session.sub,
        person=session.person,
        sid=session.sid,
        session_created_at=session.created_at,
        valid_until=ends if consent is None else min(ends, consent.expires_at),
        gid=None if consent is None else consent.gid,
        invocation=None if request.agent is None else new_id("inv", parts.random),
        token_id=new_id("tok", parts.random),
        transaction=new_id("txn", parts.random),
        created_at=now_of(parts),
        requested_at=interaction.created_at,
        document_digest=None if request.document is None else request.document.document_digest,
    )


def _details(granted: Grantable) -> tuple[AuthorizationDetail, ...]:
    if granted.endpoint is None:
        return ()
    server = granted.endpoint.server.name
    return (AuthorizationDetail(DETAIL_TOOL, server, tools=granted.tools, actions=(ACTION_CALL,)),)


async def refuse_client(
    parts: Parts,
    interaction: Interaction,
    refusal: Refusal,
    session: Session | None = None,
    *,
    event: EventType = EventType.AUTHORIZE_REFUSED,
) -> Response:
    """End the request and tell the client, whose redirect URI was proved.

    INVARIANT: a request with prompt=none shows the person nothing, so one of a client that nobody
    declared ends on a page of ours.
    """
    request = interaction.request
    if not await parts.interactions.finish(interaction.interaction_id, now_of(parts)):
        return await _answered_already(parts, request, session)
    await record_refusal(parts, event, refusal, **parties(request, session))
    if request.consent_only:
        return nothing_given_page(parts, request)
    if request.silent and request.document is not None:
        return linked_error_page(
            refusal,
            redirect_uri=request.redirect_uri,
            state=request.state,
            issuer=parts.issuer,
            client_name=name_of_client(parts.live.snapshot, request),
        )
    return redirect_error(
        refusal, redirect_uri=request.redirect_uri, state=request.state, issuer=parts.issuer
    )


async def refuse_person(
    parts: Parts, interaction: Interaction, session: Session, refusal: Refusal
) -> Response:
    """End the request with a page that says why; its link tells the client."""
    request = interaction.request
    if request.silent:
        return await refuse_client(parts, interaction, refusal, session)
    if not await parts.interactions.finish(interaction.interaction_id, now_of(parts)):
        return await _answered_already(parts, request, session)
    await record_refusal(parts, EventType.AUTHORIZE_REFUSED, refusal, **parties(request, session))
    link = response_uri(
        {"error": refusal.code, "error_description": refusal.description},
        redirect_uri=request.redirect_uri,
        state=request.state,
        issuer=parts.issuer,
    )
    asking = request.agent or request.client_id
    if request.document is not None:
        asking = name_of_client(parts.live.snapshot, request)
    consequence = f"You are logged in as {session.person.name}; {asking} has been given nothing."
    message = Message(
        "Access refused",
        (refusal.description, consequence),
        None if request.consent_only else link,
        "Go back to the program",
    )
    return message_page(message, HTTPStatus.FORBIDDEN)


async def _answered_already(
    parts: Parts, request: AuthorizationRequest, session: Session | None
) -> Response:
    """Another tab was first, or the time was over: nothing is given and nobody is redirected."""
    await record_refusal(
        parts, EventType.AUTHORIZE_REFUSED, NOT_OPEN_HERE, **parties(request, session)
    )
    return error_page(NOT_OPEN_HERE)


def parties(request: AuthorizationRequest, session: Session | None) -> dict[str, Any]:
    """Who is concerned, as fields of an audit event."""
    fields: dict[str, Any] = {
        "client_id": request.client_id,
        "agent": request.agent,
        "target_service": request.server,
        "request_path": "/oauth/authorize",
    }
    if session is None:
        return fields
    kind = PrincipalKind.PERSON if request.agent is None else PrincipalKind.AGENT_FOR_PERSON
    return fields | {
        "principal_kind": kind,
        "user": session.sub,
        "user_name": session.person.name,
        "session": session.sid,
    }
