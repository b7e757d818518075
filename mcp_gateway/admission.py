"""Step 1, "Accept", as far as headers tell: is this request for us, in a form we read? Pure.

Order: host (DNS rebinding, absolute-form targets), origin, path, method, media types, length.
Left out: who is asking (`caller`) and the body's own limits (`asgi`).
"""

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from mcp_gateway.compiled_view import CompiledView, Endpoint
from mcp_gateway.eras.legacy import is_session_request
from mcp_gateway.http_message import InboundRequest

MAXIMUM_REQUEST_BYTES: Final = 1024 * 1024  # arguments, not files: each byte is judged
_CHARSETS: Final = frozenset({"", "charset=utf-8", 'charset="utf-8"'})
_REPLY_TYPES: Final = ("application/json", "text/event-stream")


@dataclass(frozen=True, slots=True)
class NotAccepted:
    """An HTTP-level refusal, before anybody is known."""

    status: int
    description: str
    allow: str | None = None


def accept(request: InboundRequest, view: CompiledView) -> Endpoint | NotAccepted:
    """The endpoint a request is for, or why it is refused."""
    if not _is_our_host(request, view):
        return NotAccepted(403, "The Host is not this gateway.")
    origins = request.headers.all(b"origin")
    if len(origins) > 1 or not view.allowed_origins.issuperset(origins):
        return NotAccepted(403, "The Origin is not allowed.")
    endpoint = view.endpoints.get(request.path)
    if endpoint is None:
        return NotAccepted(404, "There is no such endpoint.")
    if is_session_request(request.method, request.headers):
        return _bodiless_problem(request) or endpoint
    if request.method != "POST":
        return NotAccepted(405, "Only POST is served here.", allow="POST")
    return _form_problem(request) or endpoint


def _is_our_host(request: InboundRequest, view: CompiledView) -> bool:
    hosts = request.headers.all(b"host")
    if len(hosts) != 1 or hosts[0].lower() not in view.hosts:
        return False
    if request.target_origin is None:
        return True
    # RFC 9112 §3.2.2: an absolute-form target is what the client asked for, whatever Host says.
    try:
        target = urlsplit(request.target_origin)
    except ValueError:
        return False
    is_scheme = view.origin.startswith(f"{target.scheme.lower()}://")
    return is_scheme and target.netloc.lower() in view.hosts


def _form_problem(request: InboundRequest) -> NotAccepted | None:
    headers = request.headers
    if headers.all(b"transfer-encoding") and not request.is_trailer_safe:
        # Some servers report the trailers of a chunked request as headers: an Authorization
        # there would be the client's word after the fact. Without proof they are dropped: refuse.
        return NotAccepted(411, "Content-Length is required.")
    media_type, _, parameter = (headers.first(b"content-type") or "").partition(";")
    is_json = media_type.strip().lower() == "application/json"
    if not is_json or parameter.strip().lower() not in _CHARSETS:
        return NotAccepted(415, "Content-Type must be application/json in UTF-8.")
    if headers.is_repeated(b"content-type") or headers.all(b"content-encoding"):
        return NotAccepted(415, "The body must be plain application/json.")
    if not _takes(headers.all(b"accept"), _REPLY_TYPES):
        return NotAccepted(406, "Accept must list application/json and text/event-stream.")
    length = headers.first(b"content-length")
    if length is not None and (not length.isdecimal() or int(length) > MAXIMUM_REQUEST_BYTES):
        return NotAccepted(413, f"The body may have at most {MAXIMUM_REQUEST_BYTES} bytes.")
    return None


def _bodiless_problem(request: InboundRequest) -> NotAccepted | None:
    """A legacy agent listens or ends its session: what it asks is in the head."""
    headers = request.headers
    if headers.all(b"transfer-encoding") or any(
        length != "0" for length in headers.all(b"content-length")
    ):
        return NotAccepted(400, f"{request.method} has no body here.")
    if request.method == "GET" and not _takes(headers.all(b"accept"), ("text/event-stream",)):
        return NotAccepted(406, "Accept must list text/event-stream.")
    return None


def _takes(accept_lines: list[str], media_types: tuple[str, ...]) -> bool:
    """Whether these kinds of reply are acceptable; no Accept takes all (RFC 9110 §12.5.1)."""
    if not accept_lines:
        return True
    ranges = [
        item.partition(";")[0].strip().lower() for line in accept_lines for item in line.split(",")
    ]
    return all(
        not {media_type, f"{media_type.partition('/')[0]}/*", "*/*"}.isdisjoint(ranges)
        for media_type in media_types
    )
