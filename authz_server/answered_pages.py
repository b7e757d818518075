"""How an answer ends where no program waits for it: with a page (`endpoints.new_consent`)."""

from http import HTTPStatus

from starlette.responses import Response

from authz_server.browser import forget_on_leaving
from authz_server.pages.pages import Message, message_page
from authz_server.parts import Parts
from authz_server.store.interactions import AuthorizationRequest


def stored_page(parts: Parts, request: AuthorizationRequest) -> Response:
    """The consent is kept."""
    told = f"{request.agent} may now use {request.server} for you. Try again what you came from."
    return _last_page(parts, Message("Your consent is kept", (told, "You can close this page.")))


def nothing_given_page(parts: Parts, request: AuthorizationRequest) -> Response:
    """The person said no."""
    told = f"{request.agent} has been given nothing."
    return _last_page(parts, Message("Nothing was allowed", (told, "You can close this page.")))


def _last_page(parts: Parts, message: Message) -> Response:
    response = message_page(message, HTTPStatus.OK)
    forget_on_leaving(response, parts.issuer)  # the request is over, as after a redirect
    return response
