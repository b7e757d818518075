"""References, uniqueness and audience classes over the whole set; each refusal has its twin."""

import pytest

from registry.objects import DeclaredObject
from tests.registry.samples import ISSUER, Registry, declare, replaced, small_set

Objects = list[DeclaredObject]
PUBLIC_JWK = {
    "kty": "EC",
    "crv": "P-256",
    "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
    "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
}


def agent(**spec: object) -> Objects:
    return replaced(small_set(), "Agent", "support-bot", **spec)


def gateway(**spec: object) -> Objects:
    return replaced(small_set(), "Gateway", "demo", **spec)


def server(**spec: object) -> Objects:
    return replaced(small_set(), "McpServer", "crm", **spec)


def client(name: str = "portal", **spec: object) -> DeclaredObject:
    return declare("OAuthClient", name, **({"display_name": "Portal"} | spec))


def second_agent(**spec: object) -> DeclaredObject:
    return declare("Agent", "second-bot", **(small_set()[-1].spec | spec))


def second_server(**spec: object) -> DeclaredObject:
    given = {"url": "http://127.0.0.1:9002/mcp", "credential": {"provider": "crm-token"}}
    return declare("McpServer", "notes", **(given | spec))


def second_gateway(**spec: object) -> DeclaredObject:
    given = {"base_url": "http://127.0.0.1:8702", "servers": ["crm"]}
    return declare("Gateway", "second", **(given | spec))


REFUSED: list[tuple[Objects, str, str]] = [
    # references
    (
        agent(attestation={"providers": ["unx"], "match": {"a": "b"}}),
        "Agent/support-bot spec.attestation.providers[0]",
        "TrustProvider 'unx' does not exist; did you mean 'unix'?",
    ),
    (agent(tools=["cmr/get_*"]), "Agent/support-bot spec.tools[0]", "did you mean 'crm'?"),
    (agent(clients=["portal"]), "Agent/support-bot spec.clients[0]", "none is declared"),
    (
        agent(acts_for={"groups": ["google/all"]}),
        "Agent/support-bot spec.acts_for.groups[0]",
        "IdentityProvider 'google' does not exist",
    ),
    (gateway(servers=["crm", "notes"]), "Gateway/demo spec.servers[1]", "does not exist"),
    (gateway(servers=["crm", "crm"]), "Gateway/demo spec.servers[1]", "named twice"),
    (server(credential={"provider": "x"}), "McpServer/crm spec.credential.provider", "not exist"),
    (
        [*small_set(), declare("AdminRole", "r", identity_provider="x", subject="s", role="admin")],
        "AdminRole/r spec.identity_provider",
        "does not exist",
    ),
    # groups an identity provider may not assert
    (
        replaced(small_set(), "IdentityProvider", "local", groups=["staff"]),
        "Agent/support-bot spec.acts_for.groups[0]",
        "may not assert group 'support'",
    ),
    # a client belongs to one agent
    (
        [*agent(clients=["portal"]), second_agent(clients=["portal"]), client()],
        "Agent/support-bot spec.clients[0]",
        "already belongs to Agent 'second-bot'",
    ),
    ([*small_set(), client("support-bot")], "OAuthClient/support-bot name", "already is"),
    ([*small_set(), client("countersign-cli")], "OAuthClient/countersign-cli name", "built in"),
    (
        [*small_set(), declare("Agent", "countersign-cli", **small_set()[-1].spec)],
        "Agent/countersign-cli name",
        "built in",
    ),
    # URLs
    (gateway(base_url="http://127.0.0.1:8701/"), "Gateway/demo spec.base_url", "trailing slash"),
    (gateway(base_url="https://gw.example.com?x=1"), "Gateway/demo spec.base_url", "query"),
    (gateway(base_url="http://gw.example.com"), "Gateway/demo spec.base_url", "loopback"),
    (gateway(base_url="http://localhost:8701"), "Gateway/demo spec.base_url", "loopback"),
    (gateway(base_url="https://u:p@gw.example.com"), "Gateway/demo spec.base_url", "user"),
    (gateway(base_url="http://[::1"), "Gateway/demo spec.base_url", "not a URL"),
    (server(url="https://u:p@crm.example.com/"), "McpServer/crm spec.url", "user name"),
    (server(url="stdio://git", protocol="modern"), "McpServer/crm spec.protocol", "legacy"),
    (
        agent(redirect_uris=["http://agent.example.com/cb"]),
        "Agent/support-bot spec.redirect_uris[0]",
        "loopback",
    ),
    (
        agent(redirect_uris=["https://ok.example.com@evil.example.com/"]),
        "Agent/support-bot spec.redirect_uris[0]",
        "user information",
    ),
    (
        agent(redirect_uris=["https://ägent.example.com/cb"]),
        "Agent/support-bot spec.redirect_uris[0]",
        "ASCII",
    ),
    # keys
    (
        [
            *small_set(),
            client(
                token_endpoint_auth_method="private_key_jwt",
                jwks={"keys": [{**PUBLIC_JWK, "d": "c2VjcmV0"}]},
            ),
        ],
        "OAuthClient/portal spec.jwks.keys[0]",
        "public members only",
    ),
    (
        [*small_set(), client(token_endpoint_auth_method="private_key_jwt", jwks={"keys": []})],
        "OAuthClient/portal spec.jwks",
        "keys",
    ),
    (
        [*small_set(), client(grant_types=["client_credentials"])],
        "OAuthClient/portal spec.grant_types[0]",
        "needs a key",
    ),
    # gateways
    (
        [*small_set(), second_gateway(base_url="http://127.0.0.1:8701")],
        "Gateway/second spec.base_url",
        "already used by Gateway 'demo'",
    ),
    # one audience value in two classes, or one target value for two servers
    (server(url=ISSUER), "McpServer/crm spec.url", "issuer"),
    (server(url=f"{ISSUER}/admin"), "McpServer/crm spec.url", "admin"),
    (server(url=f"{ISSUER}/control/v1"), "McpServer/crm spec.url", "control"),
    (server(url="http://127.0.0.1:8701/crm/mcp"), "McpServer/crm spec.url", "endpoint"),
    (
        replaced(small_set(), "CredentialProvider", "crm-token", audience=f"{ISSUER}/admin"),
        "CredentialProvider/crm-token spec.audience",
        "admin",
    ),
    (
        [*small_set(), second_server(url="http://127.0.0.1:9001/mcp")],
        "McpServer/notes spec.url",
        "already belongs to McpServer 'crm'",
    ),
    (
        [
            *replaced(small_set(), "CredentialProvider", "crm-token", audience="https://crm.test"),
            second_server(),
        ],
        "CredentialProvider/crm-token spec.audience",
        "already belongs to McpServer 'crm'",
    ),
]

ACCEPTED: list[Objects] = [
    small_set(),
    server(url="stdio://git"),
    server(url="stdio://git", protocol="legacy"),
    agent(acts_for=None),
    agent(acts_for={"groups": ["local/anything"]}),
    agent(
        redirect_uris=["http://127.0.0.1/cb", "http://[::1]:99/cb", "https://a.example.com/?x=1"]
    ),
    replaced(small_set(), "IdentityProvider", "local", groups=["support"]),
    [*agent(clients=["portal"]), second_agent(), client()],
    [*small_set(), declare("AdminRole", "r", identity_provider="local", subject="s", role="admin")],
    [
        *small_set(),
        client(
            token_endpoint_auth_method="private_key_jwt",
            grant_types=["client_credentials"],
            jwks={"keys": [PUBLIC_JWK]},
        ),
    ],
    gateway(base_url="https://gw.example.com/agents"),
    [*small_set(), second_gateway()],
    [*small_set(), second_server()],
    replaced(small_set(), "CredentialProvider", "crm-token", audience="https://crm.example.com"),
    replaced(small_set(), "CredentialProvider", "crm-token", audience="http://127.0.0.1:9001/mcp"),
]


@pytest.mark.requirement("trap-client-of-two-agents")
@pytest.mark.requirement("trap-audience-class")
@pytest.mark.parametrize(("objects", "where", "message"), REFUSED)
def test_set_with_a_contradiction_is_refused_at_the_field(
    registry: Registry, objects: Objects, where: str, message: str
) -> None:
    problems = registry.plan(*objects).problems
    found = {f"{each.kind}/{each.name} {each.field}": each.message for each in problems}
    assert where in found
    assert message in found[where]


@pytest.mark.requirement("trap-client-of-two-agents")
@pytest.mark.requirement("trap-audience-class")
@pytest.mark.parametrize("objects", ACCEPTED)
def test_set_without_a_contradiction_is_accepted(registry: Registry, objects: Objects) -> None:
    assert registry.plan(*objects).problems == ()
