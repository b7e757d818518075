"""Reads a request's JSON body and query, strictly, into the operation's models.

Order: content type → size, while reading → UTF-8 → one JSON value in which no key is given twice
(two parsers would read different things), nothing is deeper than 64, every number is finite and
every text is text → the model, whose unknown fields are errors.
"""

import json
import math
from collections import Counter
from typing import Any, Final, TypeVar

import anyio
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from admin_console.errors import AdminError, invalid_fields, invalid_request
from registry.declared import Problem

MAXIMUM_DEPTH: Final = 64
READ_SECONDS: Final = 10.0

Model = TypeVar("Model", bound=BaseModel)


async def body_of(request: Request, model: type[Model], maximum_bytes: int) -> Model:
    """The body as `model`.

    Raises:
        AdminError: 400, 408, 413 or 415.
    """
    _require_json(request)
    value = _parsed(await _read(request, maximum_bytes))
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise invalid_fields(error) from error


def query_of(request: Request, model: type[Model] | None) -> Model | None:
    """The query as `model`; without a model there must be no query.

    Raises:
        AdminError: 400: a parameter is unknown, given twice or invalid.
    """
    pairs = request.query_params.multi_items()
    twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if twice:
        raise invalid_request(
            "A query parameter is given twice.",
            [Problem("", "", name, "given more than once") for name in twice],
        )
    if model is None:
        if pairs:
            raise invalid_request(
                "This request takes no query parameters.",
                [Problem("", "", name, "unknown parameter") for name, _ in pairs],
            )
        return None
    try:
        return model.model_validate(dict(pairs))
    except ValidationError as error:
        raise invalid_fields(error) from error


def _require_json(request: Request) -> None:
    kinds = request.headers.getlist("content-type")
    kind = kinds[0].partition(";")[0].strip().lower() if len(kinds) == 1 else ""
    if kind != "application/json" or "content-encoding" in request.headers:
        raise AdminError(
            415,
            "unsupported_media_type",
            "The body must be plain application/json.",
            "admin.media_type",
        )


async def _read(request: Request, maximum_bytes: int) -> bytes:
    body = bytearray()
    try:
        with anyio.fail_after(READ_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > maximum_bytes:
                    raise AdminError(
                        413,
                        "too_large",
                        f"The body may have at most {maximum_bytes} bytes.",
                        "admin.body_size",
                        headers={"Connection": "close"},
                    )
    except TimeoutError as error:
        raise AdminError(
            408, "timeout", "The body took too long to arrive.", "admin.body_slow"
        ) from error
    except ClientDisconnect as error:
        raise invalid_request("The body did not arrive whole.") from error
    return bytes(body)


def _parsed(body: bytes) -> object:
    try:
        value: object = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_float=_finite,
            parse_constant=_finite,
        )
        _require_usable(value, 0)
    except _DuplicateKeyError as error:
        raise invalid_request(
            "A key is given twice in one object.",
            [Problem("", "", error.key, "given more than once")],
        ) from error
    except (ValueError, RecursionError) as error:
        raise invalid_request(f"The body is not acceptable JSON: {_reason(error)}.") from error
    return value


class _DuplicateKeyError(ValueError):
    def __init__(self, key: str) -> None:
        super().__init__("duplicate key")
        self.key = key.encode("utf-8", "replace").decode()[:128]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for key, value in pairs:
        if key in members:
            raise _DuplicateKeyError(key)
        members[key] = value
    return members


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is not finite")
    return number


def _require_usable(value: object, depth: int) -> None:
    if depth > MAXIMUM_DEPTH:
        raise ValueError(f"it is nested deeper than {MAXIMUM_DEPTH}")
    if isinstance(value, str):
        _require_text(value)
    elif isinstance(value, dict):
        for key, member in value.items():
            _require_text(key)
            _require_usable(member, depth + 1)
    elif isinstance(value, list):
        for member in value:
            _require_usable(member, depth + 1)


def _require_text(text: str) -> None:
    if "\x00" in text:
        raise ValueError("a text contains NUL")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("a text contains half a surrogate pair") from None


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at line {error.lineno} column {error.colno}"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
