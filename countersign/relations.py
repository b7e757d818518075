"""Which declared objects name which. Pure; for people to look at, nothing is decided on it."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

Row = Mapping[str, Any]
Key = tuple[str, str]

# What Cedar text may name. A tool or action `server/tool` names its server, a group its provider.
_UID: Final = re.compile(r'\b(\w+)::"((?:[^"\\]|\\.)*)"')
_BY_NAME: Final = ("Agent", "CredentialProvider", "McpServer")
_BY_FIRST_PART: Final = {"Action": "McpServer", "Group": "IdentityProvider", "Tool": "McpServer"}


def named_by(row: Row, rows: Sequence[Row]) -> list[Key]:
    """The declared objects that `row` names, in order; `rows` are all objects."""
    known = {(each["kind"], each["name"]) for each in rows}
    return sorted({key for key in _named(row, rows) if key in known})


def naming(row: Row, rows: Sequence[Row]) -> list[Key]:
    """The declared objects that name `row`."""
    key = (row["kind"], row["name"])
    return sorted((each["kind"], each["name"]) for each in rows if key in set(_named(each, rows)))


def _named(row: Row, rows: Sequence[Row]) -> Iterator[Key]:
    spec = row["spec"]
    match row["kind"]:
        case "Agent":
            attestation = spec.get("attestation") or {}  # clients that prove themselves in no way
            yield from (("TrustProvider", each) for each in attestation.get("providers", ()))
            yield from (("OAuthClient", each) for each in spec.get("clients", ()))
            yield from (("McpServer", each.partition("/")[0]) for each in spec["tools"])
            acts_for = spec.get("acts_for") or {}
            groups = acts_for.get("groups", ())
            yield from (("IdentityProvider", each.partition("/")[0]) for each in groups)
            tokens = acts_for.get("subject_tokens", ())
            yield from (("IdentityProvider", each["identity_provider"]) for each in tokens)
        case "Gateway":
            yield from (("McpServer", each) for each in spec["servers"])
        case "McpServer":
            yield "CredentialProvider", spec["credential"]["provider"]
        case "AdminRole":
            yield "IdentityProvider", spec["identity_provider"]
        case "Policy":
            yield from _in_cedar(spec["cedar"], rows)


def _in_cedar(cedar: str, rows: Sequence[Row]) -> Iterator[Key]:
    for kind, name in _UID.findall(cedar):
        if kind in _BY_NAME:
            yield kind, name
        elif kind in _BY_FIRST_PART and "/" in name:
            yield _BY_FIRST_PART[kind], name.partition("/")[0]
        elif kind == "AgentGroup":
            for each in rows:
                if each["kind"] == "Agent" and name in each["spec"].get("groups", ()):
                    yield "Agent", each["name"]
