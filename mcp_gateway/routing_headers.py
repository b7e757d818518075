"""The MCP headers that mirror the body: what they may say, and which parameters they carry. Pure.

MCP 2026-07-28 (streamable HTTP, "Custom Headers"): `MCP-Protocol-Version`, `Mcp-Method`,
`Mcp-Name` and `Mcp-Param-*` let intermediaries route without reading the body; whoever does read
the body must refuse a disagreement. Names compare without case, values with it.
"""

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mcp_gateway.http_message import Headers

PROTOCOL_VERSION_HEADER: Final = b"mcp-protocol-version"
METHOD_HEADER: Final = b"mcp-method"
NAME_HEADER: Final = b"mcp-name"
PARAMETER_PREFIX: Final = "mcp-param-"
ANNOTATION: Final = "x-mcp-header"

_SENTINEL: Final = re.compile(r"=\?base64\?(?P<payload>.*)\?=")
_VISIBLE: Final = re.compile(r"[\x20-\x7E]*")
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 §5.6.2
_DECIMAL: Final = re.compile(r"(?P<whole>-?[0-9]{1,4000})(\.(?P<fraction>[0-9]+))?")
_PRIMITIVES: Final = frozenset({"string", "integer", "boolean"})

# JSON Schema 2020-12 applicators, by the shape of their value. A `$ref` is never followed and
# instance data (`default`, `enum`, ...) never entered, so the walk ends on any finite schema.
_ONE_SCHEMA: Final = frozenset(
    {
        "items",
        "contains",
        "unevaluatedItems",
        "additionalProperties",
        "propertyNames",
        "unevaluatedProperties",
        "not",
        "if",
        "then",
        "else",
        "contentSchema",
    }
)
_MANY_SCHEMAS: Final = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_NAMED_SCHEMAS: Final = frozenset({"patternProperties", "dependentSchemas", "$defs", "definitions"})


@dataclass(frozen=True, slots=True)
class ParameterHeader:
    """An argument that is mirrored in a header: its path of property names and its type."""

    path: tuple[str, ...]
    name: str
    type: str


def repeated_routing_header(headers: Headers) -> str | None:
    """The name of a routing header sent twice: first-copy and last-copy readers would differ."""
    for name in headers.names():
        is_routing = name in {PROTOCOL_VERSION_HEADER, METHOD_HEADER, NAME_HEADER}
        if (is_routing or name.startswith(b"mcp-param-")) and headers.is_repeated(name):
            return name.decode("latin-1")
    return None


def decode_header_value(value: str | None) -> str | None:
    """Undo the `=?base64?...?=` sentinel; a malformed or non-canonical one equals nothing."""
    if value is None or (sentinel := _SENTINEL.fullmatch(value)) is None:
        return value
    payload = sentinel["payload"]
    try:
        decoded = base64.b64decode(payload, validate=True)
        if base64.b64encode(decoded).decode("ascii") != payload:
            return None
        return decoded.decode("utf-8")
    except (binascii.Error, UnicodeError):
        return None


def encode_header_value(value: str) -> str:
    """The value as it may stand in a header; wrapped when it would not survive the trip."""
    is_plain = _VISIBLE.fullmatch(value) and value == value.strip()
    if is_plain and not _SENTINEL.fullmatch(value):
        return value
    return f"=?base64?{base64.b64encode(value.encode()).decode('ascii')}?="


def parameter_headers(input_schema: object) -> tuple[ParameterHeader, ...] | None:
    """The annotated arguments of a tool, or None when an annotation is invalid.

    A tool with an invalid annotation must not be offered at all: clients drop it, and a header
    that nobody validates is a way to lie to a router.
    """
    found: dict[str, ParameterHeader] = {}
    for path, schema in _schema_positions(input_schema):
        if ANNOTATION not in schema:
            continue
        token, kind = schema[ANNOTATION], schema.get("type")
        # Whatever a server writes there: a name and a type are texts, or nothing.
        if not path or not isinstance(token, str) or not isinstance(kind, str):
            return None
        is_named = _TOKEN.fullmatch(token) is not None and token.lower() not in found
        if not is_named or kind not in _PRIMITIVES:
            return None
        found[token.lower()] = ParameterHeader(path, token, kind)
    return tuple(found.values())


def mismatched_parameter(
    declared: tuple[ParameterHeader, ...], arguments: Mapping[str, Any], headers: Headers
) -> str | None:
    """The first `Mcp-Param-*` header that disagrees with its argument, as a description."""
    for parameter in declared:
        name = f"{PARAMETER_PREFIX}{parameter.name.lower()}"
        raw = headers.first(name.encode("ascii"))
        value = _value_at(arguments, parameter.path)
        rendered = _render(value)
        if raw is None:
            if rendered is None:
                continue
            return f"{name} header is missing but its argument is present"
        if rendered is None:
            return f"{name} header is present but its argument is absent"
        decoded = decode_header_value(raw)
        if decoded is None or not _agrees(parameter.type, value, rendered, decoded):
            return f"{name} header does not match its argument"
    return None


def mirrored_parameters(
    declared: tuple[ParameterHeader, ...], arguments: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """The `Mcp-Param-*` headers of the forwarded call, made from the judged arguments."""
    for parameter in declared:
        rendered = _render(_value_at(arguments, parameter.path))
        if rendered is not None:
            yield f"Mcp-Param-{parameter.name}", encode_header_value(rendered)


def _schema_positions(root: object) -> Iterator[tuple[tuple[str, ...] | None, dict[str, Any]]]:
    """Every schema position with its chain of `properties`, None once off that chain."""
    pending: list[tuple[tuple[str, ...] | None, object]] = [((), root)]
    while pending:
        path, node = pending.pop()
        if not isinstance(node, dict):
            continue
        yield path, node
        for keyword, value in node.items():
            if keyword == "properties" and isinstance(value, dict):
                pending.extend(
                    (None if path is None else (*path, name), sub) for name, sub in value.items()
                )
            elif keyword in _ONE_SCHEMA:
                pending.append((None, value))
            elif keyword in _MANY_SCHEMAS and isinstance(value, list):
                pending.extend((None, sub) for sub in value)
            elif keyword in _NAMED_SCHEMAS and isinstance(value, dict):
                pending.extend((None, sub) for sub in value.values())


def _value_at(arguments: Mapping[str, Any], path: tuple[str, ...]) -> Any:  # noqa: ANN401
    node: Any = arguments
    for name in path:
        if not isinstance(node, dict):
            return None
        node = node.get(name)
    return node


def _render(value: object) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str | int | float):
        return None
    return str(value)


def _agrees(kind: str, value: object, rendered: str, decoded: str) -> bool:
    is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    decimal = _DECIMAL.fullmatch(decoded)
    if kind == "integer" and is_whole and not isinstance(value, bool) and decimal is not None:
        if set(decimal["fraction"] or "") - {"0"}:
            return False
        return int(decimal["whole"]) == value
    return decoded == rendered
