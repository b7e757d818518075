"""What we refuse before an application can see it: uvicorn's HTTP/1.1 protocol, made strict.

uvicorn with httptools hands the trailers of a chunked request over as if they were headers, serves
an absolute-form target by its path, and accepts odd version strings. Each could make two servers
in a row read different things in one message (request smuggling), so each ends the connection
with a 400. Give it to uvicorn as `http=StrictHttpProtocol`.
"""

from typing import Any

from httptools import HttpParserError
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class StrictHttpProtocol(HttpToolsProtocol):
    """Origin-form targets, HTTP/1.0 and 1.1, no trailers, one Host."""

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - uvicorn's own
        super().__init__(*arguments, **options)
        self._head_is_complete = False

    def on_message_begin(self) -> None:
        """A new request."""
        self._head_is_complete = False
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; after the head it is a trailer."""
        if self._head_is_complete:
            raise HttpParserError("trailers are not accepted")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is complete."""
        self._head_is_complete = True
        if not self.url.startswith(b"/"):
            raise HttpParserError("only origin-form targets are accepted")
        if self.parser.get_http_version() not in {"1.0", "1.1"}:
            raise HttpParserError("the HTTP version is not accepted")
        if sum(name == b"host" for name, _ in self.headers) > 1:
            raise HttpParserError("more than one Host")
        super().on_headers_complete()
