"""Which changes of declared objects only an admin may make. Pure.

Two attacks by an operator: becoming admin (a role, or somebody who vouches for them), and having
a credential sent to an address of their own. A credential goes where its server's url points, and
is worth what its provider says: a static secret, or a token for an audience. So an admin is whoever
changes where a server is or which credential it gets, what a provider makes or for which audience,
and whoever declares something new that sends a static secret or a token for a stated audience.
Also in several steps. An agent with a mandate acts for people who were never asked, so whoever
gives one or changes anything of such an agent is an admin, too. A new server whose tokens are for
its own url is nobody else's, and taking a server or gateway away sends nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from admin_console.roles import ADMIN_KINDS
from registry.changes import ObjectChange
from registry.declared import ObjectKey

STATIC_SECRET: Final = "static_secret"  # noqa: S105 - a type of provider

Specs = Mapping[ObjectKey, Mapping[str, Any]]


def admin_changes(changes: Sequence[ObjectChange], before: Specs, after: Specs) -> Iterator[str]:
    """What each change for admins is; `before` and `after` are all specs."""
    for change in changes:
        if change.kind in ADMIN_KINDS:
            yield f"Changing a {change.kind}"
        elif change.kind == "Agent" and _has_mandate(change.after):
            yield "Changing an Agent that acts for people by a mandate"
        elif change.kind == "CredentialProvider" and _changes_what_is_made(change):
            yield "Changing what a CredentialProvider makes or for which audience"
        elif change.kind == "McpServer" and _redirects(change, before, after):
            yield "Changing where an McpServer is or which credential it gets"
        elif change.kind == "Gateway" and change.after is not None:
            if _field(change.before, "base_url") != change.after.get("base_url"):
                yield "Changing a Gateway's base_url"
            elif _new_secret_servers(change, after):
                yield "Giving a Gateway a server with a static secret"


def _has_mandate(agent: Mapping[str, Any] | None) -> bool:
    return (_field(agent, "acts_for") or {}).get("consent") == "mandate"


def _is_secret(*providers: Mapping[str, Any] | None) -> bool:
    return any(_field(each, "type") == STATIC_SECRET for each in providers)


def _changes_what_is_made(change: ObjectChange) -> bool:
    if _is_secret(change.before, change.after):
        return True
    if change.before is None:
        return _field(change.after, "audience") is not None
    return change.after is not None and any(
        change.before.get(field) != change.after.get(field) for field in ("type", "audience")
    )


def _redirects(change: ObjectChange, before: Specs, after: Specs) -> bool:
    if change.after is None:
        return False
    if change.before is not None:
        return any(
            change.before.get(field) != change.after.get(field) for field in ("url", "credential")
        )
    # Before and after: a provider may change in the same documents.
    providers = [
        specs.get(("CredentialProvider", _provider(change.after))) for specs in (before, after)
    ]
    has_audience = any(_field(each, "audience") is not None for each in providers)
    return has_audience or _is_secret(*providers)


def _new_secret_servers(change: ObjectChange, after: Specs) -> bool:
    guarded = set(_field(change.before, "servers") or ())
    return any(
        _is_secret(after.get(("CredentialProvider", _provider(after.get(("McpServer", name))))))
        for name in _field(change.after, "servers") or ()
        if name not in guarded
    )


def _provider(server: Mapping[str, Any] | None) -> str:
    return str((_field(server, "credential") or {}).get("provider"))


def _field(spec: Mapping[str, Any] | None, name: str) -> Any:  # noqa: ANN401 - as declared
    return None if spec is None else spec.get(name)
