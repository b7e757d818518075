"""What a request to /authorize becomes once every check has passed.

One frozen `AuthorizationRequest`: login, consent and code read only that, and never the browser's
parameters again.
"""

from authz_server.authorize_asked import Asked
from authz_server.authorize_checks import CHECKS, Refused, first_refusal
from authz_server.requested_access import (
    ADMIN_SCOPES,
    ENDPOINT_SCOPES,
    SCOPE_OFFLINE,
    requested_scope,
)
from authz_server.store.interactions import AuthorizationRequest
from token_exchange.narrowing import format_scope


def check_authorization_request(asked: Asked) -> AuthorizationRequest | Refused:
    """Run the table. Pure: the same request against the same snapshot gives the same answer."""
    return first_refusal(asked, CHECKS) or _request_of(asked)


def _request_of(asked: Asked) -> AuthorizationRequest:
    endpoint = asked.endpoint
    prompts = asked.prompts
    max_age = asked.one("max_age")
    return AuthorizationRequest(
        client_id=asked.one("client_id") or "",
        agent=None if endpoint is None else endpoint.agent.entry.name,
        server=None if endpoint is None else endpoint.server.name,
        redirect_uri=asked.one("redirect_uri") or "",
        state=asked.one("state"),
        code_challenge=asked.one("code_challenge") or "",
        resource=asked.one("resource") or "",
        scope=_scope(asked),
        tools=asked.tools,
        nonce=asked.one("nonce"),
        dpop_jkt=asked.one("dpop_jkt"),
        fresh_login=bool(prompts & {"login", "select_account"}) or max_age == "0",
        ask_consent="consent" in prompts,
        silent="none" in prompts,
        login_not_before=0 if max_age is None else asked.now - int(max_age),
        document=asked.document,
    )


def _scope(asked: Asked) -> str:
    """What was asked for in the request, and by the client's document.

    MCP clients of before 2026-07-28 ask for the scope of the challenge and cannot add
    `offline_access`; their document says that they use refresh tokens.
    """
    allowed = ADMIN_SCOPES if asked.endpoint is None else ENDPOINT_SCOPES
    scope = requested_scope(asked.one("scope"), allowed) or ""
    if asked.endpoint is None or asked.document is None or not asked.document.wants_refresh:
        return scope
    return format_scope({*scope.split(), SCOPE_OFFLINE})
