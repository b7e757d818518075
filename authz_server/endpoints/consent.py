"""`/oauth/consent`: the person reads who asks for what, and answers.

What the page says is `consent_view`. What is granted is what the page showed, less what has become
unavailable since: the form carries a mark of each tool as it was shown, and one that changed
meanwhile is shown again before it can be allowed. The answer counts once, from this browser, in
this session. Nothing is preselected and no answer is remembered but "allow".

INVARIANT: an "allow" uses up the request, is recorded, is stored and makes the code in one
transaction: no consent that the audit does not know, none in the audit that is not stored, and an
answer that could not be written may be given again.
"""

from dataclasses import replace
from http import HTTPStatus
from typing import Final

from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from audit_log.event import EventType, Outcome
from audit_log.transaction_log import append_in
from authz_server.audit_events import made, record_refusal
from authz_server.authorize_answers import (
    NOT_OPEN_HERE,
    parties,
    refuse_client,
    refuse_person,
    send_code,
)
from authz_server.authorize_flow import (
    answers_login,
    consent_token,
    find_interaction,
    go_on,
    grantable,
    living_session,
    step,
)
from authz_server.browser import clear_cookie, is_forged, is_form_token, is_shared_host
from authz_server.consent_view import consent_view, marks_of
from authz_server.endpoints.page_endpoint import page_endpoint
from authz_server.errors import error_page
from authz_server.pages.pages import consent_page
from authz_server.parameters import form_of, parse_parameters
from authz_server.parts import Parts, now_of
from authz_server.requested_access import Grantable, shown_tools
from authz_server.store.consents import Consent, grant_in
from authz_server.store.interactions import AuthorizationRequest, Interaction
from authz_server.store.sessions import Session
from token_exchange.claims import Refusal
from token_exchange.identifiers import new_id

SECONDS_PER_DAY: Final = 86_400

FORGED: Final = Refusal(
    "invalid_request",
    "This answer was not sent by this page. Go back, reload and try again.",
    "form token, Origin or Sec-Fetch-Site",
    "consent.forged",
)
NO_ANSWER: Final = Refusal(
    "invalid_request", "The answer is neither allow nor deny.", "answer", "consent.no_answer"
)
OUTDATED: Final = Refusal(
    "invalid_request",
    "What you were asked has changed since this page was shown. Please read it again.",
    "agent, server, tool or duration differs from what the page showed",
    "consent.outdated",
)
DENIED: Final = Refusal(
    "access_denied", "The person said no.", "the person denied", "consent.denied"
)


def routes(parts: Parts) -> list[Route]:
    """The consent page."""
    return [Route("/oauth/consent", page_endpoint(show_or_answer, parts), methods=["GET", "POST"])]


async def show_or_answer(parts: Parts, request: Request) -> Response:
    """GET shows the page, POST answers it; one route, so that a 405 names both."""
    return await (answer if request.method == "POST" else show)(parts, request)


async def show(parts: Parts, request: Request) -> Response:
    """The page, or whatever must come before it."""
    parameters = parse_parameters(request.scope["query_string"])
    if isinstance(parameters, Refusal):
        return await _refuse(parts, parameters)
    interaction = await find_interaction(parts, request, parameters.one("interaction"))
    if interaction is None:
        return await _refuse(parts, NOT_OPEN_HERE)
    session = await living_session(parts, request)
    if session is None or not answers_login(parts, interaction, session):
        return step(parts, "login", interaction)
    # Where the cookies may be another program's, the page is for who was sent here by the login.
    if is_shared_host(parts.issuer) and not is_form_token(
        parameters.one("form"), consent_token(parts, interaction, session)
    ):
        return step(parts, "login", interaction)
    granted = grantable(parts, interaction, session)
    if isinstance(granted, Refusal):
        return await refuse_person(parts, interaction, session, granted)
    return consent_page(consent_view(parts, interaction, session, granted))


async def answer(parts: Parts, request: Request) -> Response:
    """Judge one submitted answer."""
    form = await form_of(request)
    if isinstance(form, Refusal):
        return await _refuse(parts, form)
    interaction = await find_interaction(parts, request, form.one("interaction"))
    if interaction is None:
        return await _refuse(parts, NOT_OPEN_HERE)
    session = await living_session(parts, request)
    if session is None or not answers_login(parts, interaction, session):
        return await go_on(parts, interaction, session)
    if any(form.repeated()) or is_forged(
        request, form.one("csrf"), consent_token(parts, interaction, session), parts.issuer
    ):
        return await _refuse(parts, FORGED, interaction, session)
    if form.one("answer") == "allow":
        shown = frozenset((form.one("shown") or "").split())
        return await _allow_shown(parts, interaction, session, shown)
    return await _do_otherwise(parts, interaction, session, form.one("answer"))


async def _allow_shown(
    parts: Parts,
    interaction: Interaction,
    session: Session,
    shown: frozenset[str],
) -> Response:
    """Nobody agrees to what they have not seen: else the same question, as it stands now."""
    granted = grantable(parts, interaction, session)
    if isinstance(granted, Refusal):
        return await refuse_person(parts, interaction, session, granted)
    if shown.issuperset(marks_of(granted)):
        return await _allow(parts, interaction, session, granted)
    await record_refusal(
        parts, EventType.AUTHORIZE_REFUSED, OUTDATED, **parties(interaction.request, session)
    )
    view = consent_view(parts, interaction, session, granted)
    return consent_page(replace(view, problem=OUTDATED.description), HTTPStatus.CONFLICT)


async def _do_otherwise(
    parts: Parts, interaction: Interaction, session: Session, said: str | None
) -> Response:
    match said:
        case "deny":
            return await _deny(parts, interaction, session)
        case "other_person":
            await parts.sessions.end(session.sid)
            response = step(parts, "login", interaction)
            clear_cookie(response, parts.issuer, "session")
            return response
        case _:
            return await _refuse(parts, NO_ANSWER, interaction, session)


async def _allow(
    parts: Parts, interaction: Interaction, session: Session, granted: Grantable
) -> Response:
    asked, now_ms = interaction.request, int(parts.clock() * 1000)
    consent = _consent(parts, asked, session, granted)
    event = made(
        parts,
        EventType.CONSENT_GRANTED,
        Outcome.ALLOWED,
        **parties(asked, session),
        consent=None if consent is None else consent.gid,
        detail=" ".join(granted.tools) or None,
    )

    def in_transaction(connection: Connection) -> None:
        if consent is not None:
            grant_in(connection, consent)
        append_in(connection, (event,), now_ms)

    return await send_code(parts, interaction, session, granted, consent, also=in_transaction)


def _consent(
    parts: Parts, asked: AuthorizationRequest, session: Session, granted: Grantable
) -> Consent | None:
    """The new consent. The command line's is never stored: it is asked each time."""
    if granted.endpoint is None:
        return None
    now = now_of(parts)
    return Consent(
        gid=new_id("grt", parts.random),
        sub=session.sub,
        agent=granted.endpoint.agent.entry.name,
        server=granted.endpoint.server.name,
        tools=shown_tools(granted.endpoint, granted.tools),
        scope=asked.scope,
        created_at=now,
        expires_at=now + granted.endpoint.agent.consent_days * SECONDS_PER_DAY,
    )


async def _deny(parts: Parts, interaction: Interaction, session: Session) -> Response:
    return await refuse_client(parts, interaction, DENIED, session, event=EventType.CONSENT_DENIED)


async def _refuse(
    parts: Parts,
    refusal: Refusal,
    interaction: Interaction | None = None,
    session: Session | None = None,
) -> Response:
    fields = {} if interaction is None else parties(interaction.request, session)
    await record_refusal(parts, EventType.AUTHORIZE_REFUSED, refusal, **fields)
    status = HTTPStatus.FORBIDDEN if refusal is FORGED else None
    return error_page(refusal, status=status)
