"""What we refuse before an application can see it: uvicorn's HTTP/1.1 protocol, made strict.

uvicorn with httptools hands the trailers of a chunked request over as if they were headers, serves
an absolute-form target by its path, and accepts odd version strings. Each could make two servers
in a row read different things in one message (request smuggling), so each ends the connection
with a 400.
"""

from httptools import HttpParserError

from listeners.bounded_heads import BoundedHeads


class PublicHttpProtocol(BoundedHeads):
    """Origin-form targets, HTTP/1.0 and 1.1, no trailers, one Host; heads that end."""

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; after the head it is a trailer."""
        if not self.is_in_head:
            raise HttpParserError("trailers are not accepted")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is complete."""
        if not self.url.startswith(b"/"):
            raise HttpParserError("only origin-form targets are accepted")
        if self.parser.get_http_version() not in {"1.0", "1.1"}:
            raise HttpParserError("the HTTP version is not accepted")
        if sum(name == b"host" for name, _ in self.headers) > 1:
            raise HttpParserError("more than one Host")
        super().on_headers_complete()
