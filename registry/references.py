"""What declared objects say of each other: references, uniqueness, audience classes. Pure.

The checks run on the whole set as it would be after a change, so a deletion that leaves a dangling
reference is refused at the object that refers. Order: references of each kind, then what must be
unique over all objects, then the classes of audiences (docs/architecture.md, "Who may hold what").
"""

import ipaddress
from collections.abc import Callable, Iterable, Iterator
from typing import Final
from urllib.parse import urlsplit

from registry.declared import DeclaredSet, ParsedObject, Problem
from registry.problem_words import suggestion
from registry.public_keys import InvalidKeyError, public_jwk
from registry.snapshot import endpoint_of
from registry.subject_tokens import subject_token_problems
from registry.unattested import unattested_problems
from token_exchange.token_types import GRANT_CLIENT_CREDENTIALS, AudienceClass

CLI_CLIENT_ID: Final = "countersign-cli"
ALL_GROUPS: Final = "*"


def problems_of(declared: DeclaredSet, issuer: str) -> tuple[Problem, ...]:
    """Everything wrong between the objects of a set."""
    problems: list[Problem] = []
    for parsed in declared.objects.values():
        check = _CHECKS.get(parsed.kind)
        if check is not None:
            problems.extend(check(parsed, declared))
    problems.extend(_own_host_problems(declared, issuer))
    problems.extend(_client_problems(declared))
    problems.extend(_base_url_problems(declared))
    problems.extend(_audience_problems(declared, issuer))
    return tuple(problems)


def control_audience(issuer: str) -> str:
    """The audience of the control channel."""
    return f"{issuer}/control/v1"


def admin_audience(issuer: str) -> str:
    """The audience of the admin API."""
    return f"{issuer}/admin"


def _agent(agent: ParsedObject, declared: DeclaredSet) -> Iterator[Problem]:
    spec = agent.spec
    providers = spec.attestation.providers if spec.attestation else ()
    for index, provider in enumerate(providers):
        field = f"spec.attestation.providers[{index}]"
        yield from _reference(agent, field, "TrustProvider", provider, declared)
    for index, client in enumerate(spec.clients):
        yield from _reference(agent, f"spec.clients[{index}]", "OAuthClient", client, declared)
    for index, pattern in enumerate(spec.tools):
        server = pattern.partition("/")[0]
        yield from _reference(agent, f"spec.tools[{index}]", "McpServer", server, declared)
    for index, group in enumerate(spec.acts_for.groups if spec.acts_for else ()):
        yield from _group_problems(agent, f"spec.acts_for.groups[{index}]", group, declared)
    for index, entry in enumerate(spec.acts_for.subject_tokens if spec.acts_for else ()):
        field = f"spec.acts_for.subject_tokens[{index}].identity_provider"
        yield from _reference(agent, field, "IdentityProvider", entry.identity_provider, declared)
    yield from subject_token_problems(agent, declared)
    yield from _redirect_problems(agent)
    yield from unattested_problems(agent, declared)


def _oauth_client(client: ParsedObject, _declared: DeclaredSet) -> Iterator[Problem]:
    yield from _redirect_problems(client)
    yield from _key_problems(client)
    for index, grant in enumerate(client.spec.grant_types):
        # RFC 6749 §4.4: only confidential clients.
        if grant == GRANT_CLIENT_CREDENTIALS and client.spec.jwks is None:
            yield _problem(client, f"spec.grant_types[{index}]", f"{grant} needs a key (jwks)")
    if client.name == CLI_CLIENT_ID:
        yield _problem(client, "name", f"{CLI_CLIENT_ID} is built in")


def _gateway(gateway: ParsedObject, declared: DeclaredSet) -> Iterator[Problem]:
    for index, server in enumerate(gateway.spec.servers):
        field = f"spec.servers[{index}]"
        yield from _reference(gateway, field, "McpServer", server, declared)
        if server in gateway.spec.servers[:index]:
            yield _problem(gateway, field, f"{server!r} is named twice")
    wrong = _origin_problem(gateway.spec.base_url)
    if wrong:
        yield _problem(gateway, "spec.base_url", wrong)


def _mcp_server(server: ParsedObject, declared: DeclaredSet) -> Iterator[Problem]:
    provider = server.spec.credential.provider
    field = "spec.credential.provider"
    yield from _reference(server, field, "CredentialProvider", provider, declared)
    if _has_user_information(server.spec.url):
        yield _problem(server, "spec.url", "a URL must not carry a user name or password")
    if server.spec.url.startswith("http:") and not is_loopback(server.spec.url):
        yield _problem(server, "spec.url", "http is only for loopback literals; use https")
    if server.spec.url.startswith("stdio:") and server.spec.protocol == "modern":
        yield _problem(server, "spec.protocol", "the stdio host speaks the legacy protocol")


def _admin_role(role: ParsedObject, declared: DeclaredSet) -> Iterator[Problem]:
    provider = role.spec.identity_provider
    field = "spec.identity_provider"
    yield from _reference(role, field, "IdentityProvider", provider, declared)


_CHECKS: Final[dict[str, Callable[[ParsedObject, DeclaredSet], Iterable[Problem]]]] = {
    "Agent": _agent,
    "OAuthClient": _oauth_client,
    "Gateway": _gateway,
    "McpServer": _mcp_server,
    "AdminRole": _admin_role,
}


def _key_problems(client: ParsedObject) -> Iterator[Problem]:
    if client.spec.jwks is None:
        return
    keys = client.spec.jwks.get("keys")
    if not isinstance(keys, list) or not keys or set(client.spec.jwks) != {"keys"}:
        yield _problem(client, "spec.jwks", 'must be {"keys": [...]} with at least one key')
        return
    for index, key in enumerate(keys):
        try:
            public_jwk(key if isinstance(key, dict) else {})
        except InvalidKeyError as error:
            yield _problem(client, f"spec.jwks.keys[{index}]", str(error))


def _client_problems(declared: DeclaredSet) -> Iterator[Problem]:
    """A client belongs to at most one Agent; an Agent's own name is its implicit client."""
    agents = declared.of_kind("Agent")
    for name, client in declared.of_kind("OAuthClient").items():
        if name in agents:
            yield _problem(client, "name", f"Agent {name!r} already is an OAuth client")
    for name in (CLI_CLIENT_ID,):
        if name in agents:
            yield _problem(agents[name], "name", f"{name} is built in")
    owners: dict[str, str] = {}
    for name, agent in agents.items():
        for index, client_id in enumerate(agent.spec.clients):
            owner = owners.setdefault(client_id, name)
            field = f"spec.clients[{index}]"
            if owner != name:
                yield _problem(agent, field, f"{client_id!r} already belongs to Agent {owner!r}")
            elif client_id in agent.spec.clients[:index]:
                yield _problem(agent, field, f"{client_id!r} is named twice")


def _base_url_problems(declared: DeclaredSet) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    for name, gateway in declared.of_kind("Gateway").items():
        first = seen.setdefault(gateway.spec.base_url, name)
        if first != name:
            yield _problem(gateway, "spec.base_url", f"already used by Gateway {first!r}")


def _audience_problems(declared: DeclaredSet, issuer: str) -> Iterator[Problem]:
    """INVARIANT: an audience value has one class, and a target's value belongs to one server."""
    taken: dict[str, tuple[AudienceClass | str, str]] = {
        issuer: ("issuer", "this server"),
        control_audience(issuer): (AudienceClass.CONTROL, "the control channel"),
        admin_audience(issuer): (AudienceClass.ADMIN, "the admin API"),
    }
    for parsed, field, value, audience_class, owner in _audiences(declared):
        known_class, known_owner = taken.setdefault(value, (audience_class, owner))
        if known_class is not audience_class:
            message = f"{value} already is the {known_class} audience of {known_owner}"
            yield _problem(parsed, field, message)
        elif known_owner != owner and audience_class is AudienceClass.TARGET:
            message = f"{value} already belongs to {known_owner}; tokens for one would fit both"
            yield _problem(parsed, field, message)


def _audiences(
    declared: DeclaredSet,
) -> Iterator[tuple[ParsedObject, str, str, AudienceClass, str]]:
    for gateway in declared.of_kind("Gateway").values():
        for index, server in enumerate(gateway.spec.servers):
            value = endpoint_of(gateway.spec.base_url, server)
            owner = f"Gateway {gateway.name!r}"
            yield gateway, f"spec.servers[{index}]", value, AudienceClass.ENDPOINT, owner
    providers = declared.of_kind("CredentialProvider")
    for server in declared.of_kind("McpServer").values():
        owner = f"McpServer {server.name!r}"
        yield server, "spec.url", server.spec.url, AudienceClass.TARGET, owner
        provider = providers.get(server.spec.credential.provider)
        if provider is not None and provider.spec.audience is not None:
            value = provider.spec.audience
            yield provider, "spec.audience", value, AudienceClass.TARGET, owner


def _reference(
    parsed: ParsedObject, field: str, kind: str, name: str, declared: DeclaredSet
) -> Iterator[Problem]:
    if not declared.has(kind, name):
        known = declared.of_kind(kind)
        yield _problem(parsed, field, f"{kind} {name!r} does not exist{suggestion(name, known)}")


def _group_problems(
    agent: ParsedObject, field: str, group: str, declared: DeclaredSet
) -> Iterator[Problem]:
    provider_name, _, group_name = group.partition("/")
    provider = declared.objects.get(("IdentityProvider", provider_name))
    if provider is None:
        yield from _reference(agent, field, "IdentityProvider", provider_name, declared)
    elif ALL_GROUPS not in provider.spec.groups and group_name not in provider.spec.groups:
        message = f"IdentityProvider {provider_name!r} may not assert group {group_name!r}"
        yield _problem(agent, field, message + suggestion(group_name, provider.spec.groups))


def _own_host_problems(declared: DeclaredSet, issuer: str) -> Iterator[Problem]:
    """Cookies know no ports (RFC 6265 §8.5): ours would reach whoever listens on our host."""
    own = urlsplit(issuer)
    if own.scheme != "https":
        return  # loopback: authz_server.browser lets no cookie leave
    for kind in ("Agent", "OAuthClient"):
        for parsed in declared.of_kind(kind).values():
            for index, uri in enumerate(parsed.spec.redirect_uris):
                if _host_of(uri) == own.hostname:
                    field = f"spec.redirect_uris[{index}]"
                    yield _problem(parsed, field, "must not be on the issuer's own host")


def _host_of(uri: str) -> str | None:
    try:
        return urlsplit(uri).hostname
    except ValueError:
        return None


def _redirect_problems(parsed: ParsedObject) -> Iterator[Problem]:
    for index, uri in enumerate(parsed.spec.redirect_uris):
        field = f"spec.redirect_uris[{index}]"
        if not uri.isascii() or _has_user_information(uri):
            yield _problem(parsed, field, "must be plain ASCII without user information")
        elif uri.startswith("http:") and not is_loopback(uri):
            yield _problem(parsed, field, "http is only for loopback literals; use https")


def _origin_problem(url: str) -> str | None:
    try:
        urlsplit(url)
    except ValueError:
        return "is not a URL"
    if url.endswith("/") or "?" in url or _has_user_information(url):
        return "must have no trailing slash, query or user information"
    if url.startswith("http:") and not is_loopback(url):
        return "http is only for loopback literals; use https"
    return None


def is_loopback(url: str) -> bool:
    """Whether the host is a loopback address literal; `localhost` is a name and is not."""
    try:
        host = urlsplit(url).hostname
        return host is not None and ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _has_user_information(url: str) -> bool:
    """Whether there is, or what cannot be parsed may hide, a user name before the host."""
    try:
        return "@" in urlsplit(url).netloc
    except ValueError:
        return True


def _problem(parsed: ParsedObject, field: str, message: str) -> Problem:
    return Problem(parsed.kind, parsed.name, field, message)
