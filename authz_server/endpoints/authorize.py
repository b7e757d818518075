"""`/oauth/authorize` (RFC 6749 §3.1): read once, run the table of checks, keep it, go on.

GET and POST alike (OpenID Core §3.1.2.1). A refusal is audited; it is told to the client only
where the table says the redirect URI was proved, otherwise it ends in a page. A client known by its
own word only is told when the person follows a link.
"""

from dataclasses import replace
from http import HTTPStatus
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from audit_log.event import EventType
from authz_server.audit_events import record_refusal
from authz_server.authorize_accepted import check_authorization_request
from authz_server.authorize_answers import parties
from authz_server.authorize_asked import Asked
from authz_server.authorize_checks import Refused
from authz_server.authorize_flow import go_on, living_session
from authz_server.browser import BROWSER_COOKIE_SECONDS, browser_secret, set_cookie
from authz_server.clients.documents import BUSY
from authz_server.clients.metadata_document import host_of
from authz_server.clients.resolving import document_of
from authz_server.endpoints.page_endpoint import page_endpoint
from authz_server.errors import error_page, linked_error_page, redirect_error
from authz_server.network import network_of
from authz_server.parameters import Parameters, form_of, parse_parameters
from authz_server.parts import Parts, now_of
from authz_server.store.interactions import AuthorizationRequest
from token_exchange.claims import Refusal

MAXIMUM_SHOWN: Final = 200
RETRY_SECONDS: Final = 60

TOO_MANY: Final = Refusal(
    "temporarily_unavailable",
    "The service cannot answer now. Try again in some minutes.",
    "as many requests are open as are kept, and somebody is logged in for each",
    "authorize.too_many_open",
)


def routes(parts: Parts) -> list[Route]:
    """The authorization endpoint."""
    endpoint = page_endpoint(authorize, parts)
    return [Route("/oauth/authorize", endpoint, methods=["GET", "POST"])]


async def authorize(parts: Parts, request: Request) -> Response:
    """Answer one authorization request."""
    parameters = (
        await form_of(request)
        if request.method == "POST"
        else parse_parameters(request.scope["query_string"])
    )
    if isinstance(parameters, Refusal):
        await record_refusal(
            parts,
            EventType.AUTHORIZE_REFUSED,
            parameters,
            request_method=request.method,
            request_path="/oauth/authorize",
        )
        return error_page(parameters)
    return await _judge(parts, request, parameters)


async def _judge(parts: Parts, request: Request, parameters: Parameters) -> Response:
    document = await document_of(parts, parameters)
    if isinstance(document, Refusal):
        claimed = ascii(parameters.one("client_id"))[:MAXIMUM_SHOWN]
        refusal = replace(document, detail=f"client {claimed}: {document.detail}")
        return await _refuse_document(parts, request, refusal)
    now = now_of(parts)
    asked = Asked(parameters, parts.live.snapshot, parts.live.blocks, now, document)
    async with parts.turns.turn():
        accepted = check_authorization_request(asked)
    if isinstance(accepted, Refused):
        return await _refuse(parts, request, asked, accepted)
    return await begin(parts, request, accepted, now)


async def begin(
    parts: Parts, request: Request, accepted: AuthorizationRequest, now: int
) -> Response:
    """Keep an accepted request for the browser that brought it, and go on with it."""
    secret = browser_secret(request, parts.issuer, parts.random)
    interaction = await parts.interactions.start(accepted, secret, now, network=network_of(request))
    if interaction is None:
        await record_refusal(
            parts, EventType.AUTHORIZE_REFUSED, TOO_MANY, **parties(accepted, None)
        )
        response = error_page(TOO_MANY, heading="Too many logins are open")
        response.headers["Retry-After"] = str(RETRY_SECONDS)
        return response
    response = await go_on(parts, interaction, await living_session(parts, request))
    set_cookie(response, parts.issuer, "browser", secret, BROWSER_COOKIE_SECONDS)
    return response


async def _refuse_document(parts: Parts, request: Request, refusal: Refusal) -> Response:
    """Who asks is not known, so only the person is told, and why only in the audit.

    One status for every cause: a name that leads into our network looks like one that does not.
    """
    await record_refusal(
        parts,
        EventType.AUTHORIZE_REFUSED,
        refusal,
        request_method=request.method,
        request_path="/oauth/authorize",
    )
    is_busy = refusal.rule == BUSY.rule
    return error_page(refusal, status=None if is_busy else HTTPStatus.BAD_REQUEST)


async def _refuse(parts: Parts, request: Request, asked: Asked, refused: Refused) -> Response:
    agent = asked.agent
    await record_refusal(
        parts,
        EventType.AUTHORIZE_REFUSED,
        refused.refusal,
        # Only names we know go into the field; what else was claimed is in the detail.
        client_id=None if asked.client is None else asked.client.client_id,
        agent=None if agent is None else agent.entry.name,
        request_method=request.method,
        request_path="/oauth/authorize",
    )
    if refused.redirect_uri is None:
        return error_page(refused.refusal)
    if asked.document is not None:
        return linked_error_page(
            refused.refusal,
            redirect_uri=refused.redirect_uri,
            state=refused.state,
            issuer=parts.issuer,
            client_name=host_of(asked.document.client_id),
        )
    return redirect_error(
        refused.refusal,
        redirect_uri=refused.redirect_uri,
        state=refused.state,
        issuer=parts.issuer,
    )
