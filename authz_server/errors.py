"""How a refusal becomes a response: RFC 6749 §5.2 JSON, a redirect to the client, or a page.

The only place. JSON whatever `Accept` says; never stored; descriptions reduced to the characters
RFC 6749 allows, so that no caller's text can break a header or a log. `detail` and `rule` are for
the audit and never appear here. A redirect is made only to a URI the caller has proved, and without
asking only to a client somebody declared, or one that the person was shown.
"""

import re
from http import HTTPStatus
from typing import Final
from urllib.parse import urlencode, urlsplit

from starlette.responses import JSONResponse, RedirectResponse, Response

from authz_server.browser import forget_on_leaving
from authz_server.pages.pages import Message, message_page
from token_exchange.claims import Refusal

NO_STORE: Final = {"Cache-Control": "no-store", "Pragma": "no-cache"}

_STATUS: Final = {
    "invalid_client": HTTPStatus.UNAUTHORIZED,
    "access_denied": HTTPStatus.FORBIDDEN,
    "insufficient_scope": HTTPStatus.FORBIDDEN,  # RFC 6750 §3.1
    "server_error": HTTPStatus.INTERNAL_SERVER_ERROR,
    "temporarily_unavailable": HTTPStatus.SERVICE_UNAVAILABLE,
}
_NOT_ALLOWED = re.compile(r"[^\x20-\x21\x23-\x5B\x5D-\x7E]")  # RFC 6749 §5.2

UNAVAILABLE: Final = Refusal(
    "temporarily_unavailable",
    "The service cannot answer now. Try again.",
    "database or audit unavailable",
    "errors.unavailable",
)
UNEXPECTED: Final = Refusal(
    "server_error", "Something went wrong on our side.", "unexpected", "errors.unexpected"
)


def token_error(refusal: Refusal, *, authorization_used: bool = False) -> Response:
    """The JSON error of the token endpoint and its kin (RFC 6749 §5.2).

    Args:
        refusal: What to say.
        authorization_used: The client sent an `Authorization` header, so a 401 must challenge.
    """
    headers = dict(NO_STORE)
    if refusal.code == "invalid_client" and authorization_used:
        headers["WWW-Authenticate"] = 'Basic realm="token"'
    return JSONResponse(
        {"error": refusal.code, "error_description": allowed_text(refusal.description)},
        status_code=_STATUS.get(refusal.code, HTTPStatus.BAD_REQUEST),
        headers=headers,
    )


def resource_error(refusal: Refusal) -> Response:
    """The error of a resource of our own that takes key-bound tokens (RFC 9449 §7.1).

    A token or proof that is not accepted is a 401 with a challenge, one for something else a 403
    with a challenge; the rest is the caller's.
    """
    headers = dict(NO_STORE)
    status = _STATUS.get(refusal.code, HTTPStatus.BAD_REQUEST)
    if refusal.code in {"invalid_token", "invalid_dpop_proof"}:
        status = HTTPStatus.UNAUTHORIZED
    if status is HTTPStatus.UNAUTHORIZED or refusal.code == "insufficient_scope":
        headers["WWW-Authenticate"] = f'DPoP algs="ES256", error="{refusal.code}"'
    return JSONResponse(
        {"error": refusal.code, "error_description": allowed_text(refusal.description)},
        status_code=status,
        headers=headers,
    )


def redirect_error(
    refusal: Refusal, *, redirect_uri: str, state: str | None, issuer: str
) -> Response:
    """The error response of the authorization endpoint (RFC 6749 §4.1.2.1, RFC 9207 §2).

    Args:
        refusal: What to say.
        redirect_uri: INVARIANT: proved to belong to the client.
        state: The client's `state`, returned as sent.
        issuer: Ours.
    """
    parameters = {"error": refusal.code, "error_description": allowed_text(refusal.description)}
    return redirect_to_client(parameters, redirect_uri=redirect_uri, state=state, issuer=issuer)


def linked_error_page(
    refusal: Refusal, *, redirect_uri: str, state: str | None, issuer: str, client_name: str
) -> Response:
    """As `redirect_error`, for a client known by its own word only: the person goes, or does not.

    Anybody may describe a client on a host of theirs, so an automatic redirect before a person saw
    who asks would make us a way from our name to any site (RFC 9700 §4.11.2).

    Args:
        refusal: What to say.
        redirect_uri: INVARIANT: proved to belong to the client.
        state: The client's `state`, returned as sent.
        issuer: Ours.
        client_name: The host of the client's document.
    """
    parameters = {"error": refusal.code, "error_description": allowed_text(refusal.description)}
    who = f"A program of {client_name} asked, which nobody vouches for here."
    message = Message(
        "This request cannot be answered",
        (refusal.description, f"{who} It has been given nothing."),
        response_uri(parameters, redirect_uri=redirect_uri, state=state, issuer=issuer),
        f"Go on to {urlsplit(redirect_uri).netloc}",
    )
    response = message_page(message, _STATUS.get(refusal.code, HTTPStatus.BAD_REQUEST))
    forget_on_leaving(response, issuer)
    return response


def redirect_to_client(
    parameters: dict[str, str], *, redirect_uri: str, state: str | None, issuer: str
) -> Response:
    """An authorization response: `parameters`, `state` if one was sent, and `iss` (RFC 9207)."""
    # 303: the browser must not repeat a form with a password or an answer in it (RFC 9700 §4.12).
    response = RedirectResponse(
        response_uri(parameters, redirect_uri=redirect_uri, state=state, issuer=issuer),
        status_code=HTTPStatus.SEE_OTHER,
        headers=NO_STORE,
    )
    response.headers["Referrer-Policy"] = "no-referrer"
    forget_on_leaving(response, issuer)
    return response


def response_uri(
    parameters: dict[str, str], *, redirect_uri: str, state: str | None, issuer: str
) -> str:
    """The URI of an authorization response; a query of the registered URI is kept."""
    said = dict(parameters)
    if state is not None:
        said["state"] = state
    said["iss"] = issuer
    separator = "&" if "?" in redirect_uri else "?"
    return f"{redirect_uri}{separator}{urlencode(said)}"


def error_page(
    refusal: Refusal, *, status: int | None = None, heading: str = "This request cannot be answered"
) -> Response:
    """A page for the person, where there is no client that may be told."""
    message = Message(heading, (refusal.description,))
    return message_page(message, status or _STATUS.get(refusal.code, HTTPStatus.BAD_REQUEST))


def allowed_text(text: str) -> str:
    """`text` in the characters an `error_description` may have."""
    return _NOT_ALLOWED.sub("?", text)
