"""Shows the ways to log in for one request: a button for each site, and the password form."""

from http import HTTPStatus
from typing import Final
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import Response

from authz_server.browser import form_token, read_cookie
from authz_server.errors import error_page
from authz_server.pages.pages import LoginChoice, LoginView, login_page
from authz_server.parts import Parts
from authz_server.redirect_uris import origin_of
from authz_server.requested_access import name_of_client
from authz_server.store.interactions import Interaction
from idp_connectors.workforce.login import (
    LoginFailure,
    LoginFailureCode,
    PersonLogin,
    RedirectLogin,
)
from token_exchange.claims import Refusal

NO_PROVIDER: Final = Refusal(
    "temporarily_unavailable",
    "Nobody can log in here: no identity provider is declared.",
    "no person login",
    "login.no_provider",
)

_STATUS: Final = {
    LoginFailureCode.INVALID_CREDENTIALS: HTTPStatus.FORBIDDEN,
    LoginFailureCode.LOCKED: HTTPStatus.TOO_MANY_REQUESTS,
    LoginFailureCode.BUSY: HTTPStatus.SERVICE_UNAVAILABLE,
    LoginFailureCode.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    LoginFailureCode.REFUSED: HTTPStatus.FORBIDDEN,
    LoginFailureCode.INVALID_RESPONSE: HTTPStatus.BAD_REQUEST,
    LoginFailureCode.ENDED: HTTPStatus.FORBIDDEN,
}


def login_form(
    parts: Parts,
    request: Request,
    interaction: Interaction,
    *,
    username: str = "",
    failure: LoginFailure | None = None,
) -> Response:
    """The login page of an open request; after a failure with its sentence and status."""
    logins = sorted(parts.person_logins().items())
    if not logins:
        return error_page(NO_PROVIDER, heading="Nobody can log in")
    asked = interaction.request
    secret = read_cookie(request, parts.issuer, "browser") or ""
    view = LoginView(
        action=f"{parts.issuer}/oauth/login",
        interaction_id=interaction.interaction_id,
        csrf_token=form_token(parts.keys.form_key(), "login", interaction.interaction_id, secret),
        client_name=name_of_client(parts.live.snapshot, asked),
        providers=tuple(name for name, login in logins if isinstance(login, PersonLogin)),
        choices=tuple(
            LoginChoice(login.label, _link(parts.issuer, name, interaction))
            for name, login in logins
            if isinstance(login, RedirectLogin)
        ),
        username=username,
        problem=None if failure is None else failure.description,
        origin=origin_of(asked.redirect_uri),
    )
    return login_page(view, HTTPStatus.OK if failure is None else _STATUS[failure.code])


def _link(issuer: str, provider: str, interaction: Interaction) -> str:
    # A link, not a form: `form-action` would have to name every site that may follow.
    query = urlencode({"interaction": interaction.interaction_id})
    return f"{issuer}/oauth/login/{quote(provider, safe='')}?{query}"
