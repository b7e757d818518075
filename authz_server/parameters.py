"""Reads `application/x-www-form-urlencoded` input once, within limits, into a frozen value.

Anything that is not plain UTF-8 text of bounded size is refused before a rule looks at it, so no
later code can meet a lone surrogate, a NUL or ten thousand parameters. A parameter without a
value counts as omitted (RFC 6749 §3.1). Nothing here decides what a parameter means.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl

from starlette.requests import Request

from authz_server.request_body import BodyError, body_of
from token_exchange.claims import Refusal

MAXIMUM_BYTES: Final = 16_384  # far above the longest request of a real client
MAXIMUM_PARAMETERS: Final = 64
FORM_MEDIA_TYPE: Final = "application/x-www-form-urlencoded"

# What a terminal or a page would obey, or hide: controls, line separators, direction overrides.
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


@dataclass(frozen=True, slots=True)
class Parameters:
    """The parameters of one request, with every value in the order sent."""

    values: dict[str, tuple[str, ...]]

    def one(self, name: str) -> str | None:
        """The first value of `name`."""
        found = self.values.get(name)
        return None if found is None else found[0]

    def repeated(self) -> Iterator[str]:
        """The names that were sent more than once."""
        return (name for name, values in self.values.items() if len(values) > 1)


def _malformed(detail: str) -> Refusal:
    return Refusal("invalid_request", "The request cannot be read.", detail, "parameters.form")


def parse_parameters(encoded: bytes, maximum_bytes: int = MAXIMUM_BYTES) -> Parameters | Refusal:
    """The parameters of a query string or form body."""
    if len(encoded) > maximum_bytes:
        return _malformed(f"{len(encoded)} bytes")
    try:
        pairs = parse_qsl(
            encoded.decode("ascii"), errors="strict", max_num_fields=MAXIMUM_PARAMETERS
        )
    except ValueError:  # not ASCII, not UTF-8 when decoded, or too many fields
        return _malformed("not a form of few UTF-8 fields")
    values: dict[str, tuple[str, ...]] = {}
    for name, value in pairs:
        # A password may hold any printable character; no field of ours holds a control character.
        if _CONTROL_CHARACTER.search(name) or _CONTROL_CHARACTER.search(value):
            return _malformed("a control character")
        values[name] = (*values.get(name, ()), value)
    return Parameters(values)


async def form_of(request: Request, *, maximum_bytes: int = MAXIMUM_BYTES) -> Parameters | Refusal:
    """The form in a POST body. A query beside it is refused: what counts is said once."""
    wrong = _wrong_envelope(request)
    if wrong is not None:
        return _malformed(wrong)
    try:
        body = await body_of(request, maximum_bytes)
    except BodyError as error:
        return _malformed(str(error))
    return parse_parameters(body, maximum_bytes)


def _wrong_envelope(request: Request) -> str | None:
    media_type, _, charset = request.headers.get("content-type", "").partition(";")
    if media_type.strip().lower() != FORM_MEDIA_TYPE:
        return "content type"
    if charset.replace(" ", "").replace('"', "").lower() not in ("", "charset=utf-8"):
        return "charset"
    return "query parameters in a POST" if request.url.query else None
