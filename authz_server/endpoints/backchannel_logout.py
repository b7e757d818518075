"""`/oauth/backchannel-logout/{provider}`: an identity provider says that somebody logged out.

OpenID Connect Back-Channel Logout 1.0. In this order: the form has exactly one logout token, the
provider is declared and may send one, the token is verified by that provider's own rules, it was
not seen before (§2.6 step 7), and before we answer, whoever it names is cut off and the sessions
that came from the one that ended are over. A token about somebody we never saw is accepted and
changes nothing (§2.7).
"""

from functools import partial
from http import HTTPStatus
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from audit_log.event import EventType, Outcome
from audit_log.spool import SpoolUnavailable
from audit_log.transaction_log import append_in
from authz_server.audit_events import made, record_refusal
from authz_server.errors import NO_STORE, UNAVAILABLE, token_error
from authz_server.parameters import form_of
from authz_server.parts import Parts
from authz_server.person_changes import apply_change, author_of
from authz_server.store.replay import OnceKind, UsedOnce
from database.errors import DatabaseError
from idp_connectors.workforce.logout_token import (
    LogoutClaims,
    LogoutUnavailableError,
    VerifiesLogoutTokens,
)
from idp_connectors.workforce.person_changes import ChangeKind, PersonChange
from token_exchange.claims import Refusal

PATH: Final = "/oauth/backchannel-logout"

NO_TOKEN: Final = Refusal(
    "invalid_request",
    "Send exactly one logout_token.",
    "logout_token missing or repeated",
    "logout.form",
)
NO_PROVIDER: Final = Refusal(
    "invalid_request",
    "No identity provider of this name may send logout tokens.",
    "not declared, or of a type without back-channel logout",
    "logout.provider",
)
REPLAYED: Final = Refusal(
    "invalid_request",
    "This logout token was used before.",
    "jti seen before",
    "logout.replayed",
)
NO_KEYS: Final = Refusal(
    "temporarily_unavailable",
    "The keys of the identity provider cannot be fetched now. Try again.",
    "keys unavailable",
    "logout.keys",
)


def routes(parts: Parts) -> list[Route]:
    """The back channel of every provider."""

    async def endpoint(request: Request) -> Response:
        if parts.live.is_stale(parts.lease_seconds):
            return token_error(UNAVAILABLE)
        try:
            return await _answer(parts, request)
        except (DatabaseError, SpoolUnavailable):
            return token_error(UNAVAILABLE)

    return [Route(PATH + "/{provider}", endpoint, methods=["POST"])]


async def _answer(parts: Parts, request: Request) -> Response:
    provider = str(request.path_params["provider"])
    claims = await _judged(parts, request, provider)
    if isinstance(claims, Refusal):
        return await _refused(parts, provider, claims)
    persons = await apply_change(parts, provider, _change(claims))
    # Used up last, so that one that could not be acted on may be sent again: acting on it twice
    # does nothing, by the same id.
    once = UsedOnce(OnceKind.LOGOUT, provider, claims.token_id, claims.expires_at)
    now_ms = int(parts.clock() * 1000)
    event = made(
        parts,
        EventType.LOGOUT_SUCCEEDED,
        Outcome.SUCCEEDED,
        request_path=PATH,
        object_ref=author_of(provider),
        author=author_of(provider),
        detail=f"persons cut off: {persons}",
    )
    recorded = partial(append_in, events=(event,), now_ms=now_ms)
    if await parts.replay.use((once,), now_ms // 1000, also=recorded) is not None:
        return await _refused(parts, provider, REPLAYED)
    return Response(status_code=HTTPStatus.OK, headers=NO_STORE)


async def _judged(parts: Parts, request: Request, provider: str) -> LogoutClaims | Refusal:
    form = await form_of(request)
    if isinstance(form, Refusal):
        return form
    unverified_token = form.one("logout_token")
    if unverified_token is None or "logout_token" in form.repeated():
        return NO_TOKEN
    connector: object = parts.person_logins().get(provider)
    if not isinstance(connector, VerifiesLogoutTokens):
        return NO_PROVIDER
    try:
        return await connector.verify_logout_token(unverified_token, int(parts.clock()))
    except LogoutUnavailableError as error:
        return Refusal(NO_KEYS.code, NO_KEYS.description, error.code, NO_KEYS.rule)


def _change(claims: LogoutClaims) -> PersonChange:
    return PersonChange(
        event_id=f"logout_token:{claims.token_id}",
        kind=ChangeKind.LOGGED_OUT,
        at_ms=claims.issued_at * 1000,
        subject=claims.subject,
        upstream_session=claims.upstream_session,
    )


async def _refused(parts: Parts, unverified_provider: str, refusal: Refusal) -> Response:
    # What was asked for, no longer than a name can be.
    asked = author_of(unverified_provider[:64])
    await record_refusal(
        parts, EventType.LOGOUT_REFUSED, refusal, request_path=PATH, object_ref=asked
    )
    return token_error(refusal)
