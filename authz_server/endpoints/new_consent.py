"""`/oauth/consents/new`: a person lets an agent present their tokens, with no program waiting.

Where the audit's link of a blend without consent leads (`grants.blend`). The query says `client_id`
(the agent's own client), `resource`, and `authorization_details` for fewer tools than the agent may
use. The rows of /authorize that are about those run first; then it is an authorization request like
any other: kept for this browser, login, the same consent page with the same form token, the same
stored consent. Only the end differs: a page, no code, and nobody to be redirected to. So whoever
sends a person here with a link can have them asked, and nothing more. It always asks.

Only for an agent that needs it: one that presents persons' tokens and has no mandate.
"""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from audit_log.event import EventType
from authz_server.audit_events import record_refusal
from authz_server.authorize_asked import Asked
from authz_server.authorize_checks import CHECKS, Refused, first_refusal
from authz_server.endpoints.authorize import begin
from authz_server.endpoints.page_endpoint import page_endpoint
from authz_server.errors import error_page
from authz_server.grants.blend import CONSENTS_PATH
from authz_server.parameters import parse_parameters
from authz_server.parts import Parts, now_of
from authz_server.store.interactions import AuthorizationRequest
from token_exchange.claims import Refusal
from token_exchange.token_types import SCOPE_TOOLS

HEADING: Final = "There is nothing to agree to here"

NOT_NEEDED: Final = Refusal(
    "invalid_request",
    "This agent needs no such consent.",
    "the agent presents no tokens of persons or has a mandate, or another client is named",
    "consents.agent",
)

_RULES: Final = frozenset(
    {
        "authorize.client",
        "authorize.repeated",
        "authorize.acts_for",
        "authorize.blocked",
        "authorize.resource_count",
        "authorize.resource",
        "authorize.details",
        "authorize.no_tools",
    }
)
NEW_CONSENT_CHECKS: Final = tuple(check for check in CHECKS if check.rule in _RULES)


def routes(parts: Parts) -> list[Route]:
    """Where a consent is given before anything asks for it."""
    route = Route(CONSENTS_PATH, page_endpoint(new_consent, parts), methods=["GET"])
    route.methods = {"GET"}  # a HEAD, which Starlette adds, would open a request unseen
    return [route]


async def new_consent(parts: Parts, request: Request) -> Response:
    """Judge the link, then go on as with any authorization request."""
    parameters = parse_parameters(request.scope["query_string"])
    if isinstance(parameters, Refusal):
        return await _refuse(parts, parameters)
    asked = Asked(parameters, parts.live.snapshot, parts.live.blocks, now_of(parts))
    async with parts.turns.turn():
        accepted = _accepted(asked)
    if isinstance(accepted, Refusal):
        return await _refuse(parts, accepted, asked)
    return await begin(parts, request, accepted, asked.now)


def _accepted(asked: Asked) -> AuthorizationRequest | Refusal:
    refused = first_refusal(asked, NEW_CONSENT_CHECKS)
    if isinstance(refused, Refused):
        return refused.refusal
    agent, endpoint = asked.agent, asked.endpoint
    if agent is None or endpoint is None or not agent.subject_tokens or agent.by_mandate:
        return NOT_NEEDED
    # Attack: a consent for a program that asks as this agent, given where no program is waited for,
    # would let that program in without asking and the agent's exchange not at all.
    if endpoint.unattested is not None:
        return NOT_NEEDED
    return AuthorizationRequest(
        client_id=asked.one("client_id") or "",
        agent=agent.entry.name,
        server=endpoint.server.name,
        redirect_uri="",
        state=None,
        code_challenge="",
        resource=asked.one("resource") or "",
        scope=SCOPE_TOOLS,
        tools=asked.tools,
        nonce=None,
        dpop_jkt=None,
        fresh_login=False,
        ask_consent=True,
        silent=False,
        login_not_before=0,
        consent_only=True,
    )


async def _refuse(parts: Parts, refusal: Refusal, asked: Asked | None = None) -> Response:
    agent = None if asked is None else asked.agent
    await record_refusal(
        parts,
        EventType.AUTHORIZE_REFUSED,
        refusal,
        agent=None if agent is None else agent.entry.name,
        request_method="GET",
        request_path=CONSENTS_PATH,
    )
    return error_page(refusal, heading=HEADING)
