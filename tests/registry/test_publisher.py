"""What a snapshot contains, and what of it a Gateway gets."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest
from joserfc.jwk import ECKey

from registry.blocks import BlockEntry, BlockKind, BlockState
from registry.public_keys import PUBLIC_MEMBERS, InvalidKeyError
from registry.publisher import (
    UnpublishableRegistryError,
    compile_snapshot,
    enforcement_view,
)
from registry.references import admin_audience, control_audience
from registry.snapshot import ClientRecord, EnforcementView, RegistrySnapshot
from tests.registry.samples import (
    ISSUER,
    SETTINGS_MODELS,
    Registry,
    declare,
    observed_digests,
    replaced,
    small_set,
    tool,
)
from token_exchange.token_types import (
    GRANT_AUTHORIZATION_CODE,
    GRANT_CLIENT_CREDENTIALS,
    GRANT_REFRESH_TOKEN,
    GRANT_TOKEN_EXCHANGE,
)

NOW = 1_700_000_000


def published(registry: Registry) -> RegistrySnapshot:
    return registry.database.read(
        lambda connection: compile_snapshot(
            connection, issuer=ISSUER, settings_models=SETTINGS_MODELS
        )
    )


def view_of(
    registry: Registry,
    gateway: str = "demo",
    blocks: BlockState | None = None,
    token_keys: Sequence[Mapping[str, Any]] = (),
) -> EnforcementView:
    snapshot = published(registry)
    view = enforcement_view(snapshot, gateway, blocks or BlockState(), token_keys, NOW, 3.0)
    assert view is not None
    return view


def approve(registry: Registry, *names: str) -> None:
    asyncio.run(registry.catalogue.observe("crm", [tool(name) for name in names]))
    digests = observed_digests(registry.catalogue, *names)
    asyncio.run(registry.catalogue.approve("crm", digests, "usr_alice"))


def second_server() -> list[Any]:
    return [
        declare("CredentialProvider", "notes-key", type="static_secret", secret="notes-api-key"),
        declare(
            "McpServer",
            "notes",
            url="http://127.0.0.1:9002/mcp",
            credential={"provider": "notes-key"},
        ),
        declare("Gateway", "second", base_url="http://127.0.0.1:8702", servers=["notes"]),
        declare("Agent", "notes-bot", **(small_set()[-1].spec | {"tools": ["notes/*"]})),
    ]


def test_snapshot_of_an_empty_registry_has_only_the_command_line_client(
    registry: Registry,
) -> None:
    snapshot = published(registry)
    assert (snapshot.version, snapshot.issuer) == (0, ISSUER)
    assert snapshot.clients == {
        "countersign-cli": ClientRecord(
            client_id="countersign-cli",
            kind="cli",
            display_name="Countersign command line",
            redirect_uris=("http://127.0.0.1/callback",),
            authentication=("none",),
            grant_types=(GRANT_AUTHORIZATION_CODE,),
        )
    }
    assert snapshot.policies.documents == ()


def test_agent_has_an_implicit_client_that_authenticates_by_attestation(
    registry: Registry,
) -> None:
    registry.apply(*small_set())
    assert published(registry).clients["support-bot"] == ClientRecord(
        client_id="support-bot",
        kind="agent",
        display_name="support-bot",
        redirect_uris=(),
        authentication=("workload_assertion", "workload_certificate"),
        grant_types=(GRANT_AUTHORIZATION_CODE, GRANT_REFRESH_TOKEN),
        agent="support-bot",
    )


@pytest.mark.parametrize(
    ("acts_for", "acts_alone", "grants"),
    [
        ({"groups": ["local/support"]}, None, (GRANT_AUTHORIZATION_CODE, GRANT_REFRESH_TOKEN)),
        (
            {"groups": ["local/support"]},
            True,
            (GRANT_AUTHORIZATION_CODE, GRANT_REFRESH_TOKEN, GRANT_CLIENT_CREDENTIALS),
        ),
        (None, None, (GRANT_CLIENT_CREDENTIALS,)),
        (None, False, ()),
    ],
)
def test_agents_grants_follow_for_whom_it_may_act(
    registry: Registry, acts_for: object, acts_alone: object, grants: tuple[str, ...]
) -> None:
    changed = {"acts_for": acts_for, "acts_alone": acts_alone}
    registry.apply(*replaced(small_set(), "Agent", "support-bot", **changed))
    snapshot = published(registry)
    assert snapshot.clients["support-bot"].grant_types == grants
    alone = GRANT_CLIENT_CREDENTIALS in grants
    assert snapshot.agents["support-bot"].may_act_alone is alone


def test_further_client_of_an_agent_gets_no_grant_the_agent_has_not(registry: Registry) -> None:
    key = ECKey.generate_key("P-256").as_dict(private=False)
    client = declare(
        "OAuthClient",
        "portal",
        display_name="Portal",
        grant_types=["authorization_code", "client_credentials"],
        token_endpoint_auth_method="private_key_jwt",
        jwks={"keys": [key]},
    )
    agent = replaced(small_set(), "Agent", "support-bot", clients=["portal"])
    registry.apply(*agent, client)
    found = published(registry).clients["portal"]
    assert found.agent == "support-bot"
    assert found.grant_types == (GRANT_AUTHORIZATION_CODE, GRANT_REFRESH_TOKEN)
    assert found.authentication == ("private_key_jwt",)
    assert published(registry).agents["support-bot"].client_ids == ("support-bot", "portal")


def test_gateway_has_a_client_with_the_keys_that_enrolled_and_no_other(registry: Registry) -> None:
    registry.apply(*small_set(), *second_server())
    jwk = dict(ECKey.generate_key("P-256").as_dict(private=False))
    code = asyncio.run(registry.enrolment.create_code("demo", "local:0", NOW))
    before = registry.version()
    asyncio.run(registry.enrolment.consume_code(code, jwk, NOW))
    assert registry.version() == before + 1
    snapshot = published(registry)
    client = snapshot.clients["gateway:demo"]
    assert client.authentication == ("private_key_jwt",)
    assert client.grant_types == (GRANT_CLIENT_CREDENTIALS, GRANT_TOKEN_EXCHANGE)
    assert [key["x"] for key in client.jwks] == [jwk["x"]]
    assert snapshot.clients["gateway:second"].jwks == ()


def test_server_audience_is_its_url_unless_its_provider_says_otherwise(registry: Registry) -> None:
    registry.apply(*small_set())
    assert published(registry).servers["crm"].audience == "http://127.0.0.1:9001/mcp"
    audience = "https://crm.example.com"
    registry.apply(*replaced(small_set(), "CredentialProvider", "crm-token", audience=audience))
    server = published(registry).servers["crm"]
    assert (server.url, server.audience) == ("http://127.0.0.1:9001/mcp", audience)
    assert server.credential.version == 2


def test_only_approved_tools_are_published_with_the_operators_word_on_them(
    registry: Registry,
) -> None:
    overrides = {"get_account": {"read_only": True}, "refund": {"sensitivity": 2}}
    registry.apply(*replaced(small_set(), "McpServer", "crm", tools=overrides))
    boastful = tool("delete") | {"annotations": {"readOnlyHint": True}}
    offered = [tool("get_account"), tool("refund"), boastful, tool("unapproved")]
    asyncio.run(registry.catalogue.observe("crm", offered))
    digests = observed_digests(registry.catalogue, "get_account", "refund", "delete")
    asyncio.run(registry.catalogue.approve("crm", digests, "a"))
    tools = published(registry).servers["crm"].tools
    assert [(each.name, each.read_only, each.sensitivity) for each in tools] == [
        ("delete", False, 0),
        ("get_account", True, 0),
        ("refund", False, 2),
    ]


def test_endpoint_audiences_are_byte_exact(registry: Registry) -> None:
    registry.apply(*small_set(), *second_server())
    assert published(registry).endpoint_audiences() == {
        "http://127.0.0.1:8701/crm/mcp": ("demo", "crm"),
        "http://127.0.0.1:8702/notes/mcp": ("second", "notes"),
    }
    assert control_audience(ISSUER) == f"{ISSUER}/control/v1"
    assert admin_audience(ISSUER) == f"{ISSUER}/admin"


def test_stored_object_this_release_does_not_know_is_not_published(registry: Registry) -> None:
    registry.apply(*small_set())
    without = {key: value for key, value in SETTINGS_MODELS.items() if key[1] != "unix_process"}
    with pytest.raises(UnpublishableRegistryError, match=r"TrustProvider/unix spec\.type"):
        registry.database.read(
            lambda connection: compile_snapshot(connection, issuer=ISSUER, settings_models=without)
        )


@pytest.mark.requirement("trap-secret-in-view")
def test_view_contains_only_the_servers_and_agents_of_its_gateway(registry: Registry) -> None:
    registry.apply(*small_set(), *second_server())
    approve(registry, "refund")
    view = view_of(registry)
    assert [server.name for server in view.servers] == ["crm"]
    assert [agent.name for agent in view.agents] == ["support-bot"]
    assert "notes" not in msgspec.json.encode(view).decode()
    other = view_of(registry, "second")
    assert [agent.name for agent in other.agents] == ["notes-bot"]
    assert "crm" not in msgspec.json.encode(other).decode()


def test_view_carries_policies_blocks_keys_and_times(registry: Registry) -> None:
    registry.apply(*small_set())
    approve(registry, "refund")
    registry.apply(declare("Policy", "support", cedar="crm/refund"))
    entry = BlockEntry(BlockKind.AGENT, "support-bot", blocked=True, not_before=5)
    key = ECKey.generate_key("P-256").as_dict(private=False)
    view = view_of(registry, blocks=BlockState.of(7, [entry]), token_keys=[key])
    assert view.policies == published(registry).policies
    assert (view.sequence, view.blocks) == (7, (entry,))
    assert (view.issued_at, view.lease_seconds) == (NOW, 3.0)
    assert [each["x"] for each in view.token_keys] == [key["x"]]
    decoded = msgspec.json.decode(msgspec.json.encode(view), type=EnforcementView)
    assert decoded == view


def test_view_of_an_undeclared_gateway_is_none(registry: Registry) -> None:
    snapshot = published(registry)
    assert enforcement_view(snapshot, "demo", BlockState(), [], NOW, 3.0) is None


@pytest.mark.requirement("trap-secret-in-view")
def test_view_with_a_private_token_key_is_refused(registry: Registry) -> None:
    registry.apply(*small_set())
    private = ECKey.generate_key("P-256").as_dict(private=True)
    with pytest.raises(InvalidKeyError):
        view_of(registry, token_keys=[private])


@pytest.mark.requirement("trap-secret-in-view")
def test_view_does_not_say_how_a_credential_is_made(registry: Registry) -> None:
    registry.apply(*small_set(), *second_server())
    settings = published(registry).servers["notes"].credential.settings
    assert settings == {"secret": "notes-api-key", "header": "Authorization"}
    (server,) = view_of(registry, "second").servers
    assert server.credential.settings == {}
    assert "notes-api-key" not in msgspec.json.encode(view_of(registry, "second")).decode()


# Every field a view can have, by the struct it is in. A new one must be judged and added here.
PUBLIC_FIELDS = {
    "EnforcementView": {
        "version", "issued_at", "issuer", "gateway", "token_keys", "servers", "agents",
        "policies", "sequence", "blocks", "lease_seconds",
    },
    "GatewayEntry": {"name", "base_url", "client_id", "servers", "allowed_origins", "jwks"},
    "ServerEntry": {
        "name", "url", "audience", "require_bound", "person_attributes", "credential", "tools",
        "timeout_seconds", "maximum_response_bytes", "approve", "protocol", "url_since",
    },
    "CredentialProviderEntry": {
        "name", "type", "binding", "lifetime_seconds", "version", "audience", "settings",
    },
    "ToolEntry": {"name", "digest", "definition", "read_only", "sensitivity"},
    "AgentEntry": {"name", "groups", "tools", "environment", "minimum_level"},
    "PolicySetEntry": {"version", "documents"},
    "PolicyDocument": {"name", "cedar"},
    "BlockEntry": {"kind", "id", "blocked", "not_before"},
}  # fmt: skip
# The fields whose type is open, with what closes each of them.
OPEN_FIELDS = {
    "EnforcementView.token_keys": "public_jwk",
    "GatewayEntry.jwks": "public_jwk at enrolment",
    "CredentialProviderEntry.settings": "emptied by enforcement_view",
    "ToolEntry.definition": "what the MCP server tells everybody",
}


def walked(of_type: msgspec.inspect.Type, path: str) -> tuple[dict[str, set[str]], set[str]]:
    """The fields of every struct below a type, and the paths whose type is open."""
    structs: dict[str, set[str]] = {}
    open_paths: set[str] = set()
    match of_type:
        case msgspec.inspect.StructType(cls=cls, fields=fields):
            structs[cls.__name__] = {field.name for field in fields}
            inner = [(field.type, f"{cls.__name__}.{field.name}") for field in fields]
        case msgspec.inspect.VarTupleType(item_type=item):
            inner = [(item, path)]
        case msgspec.inspect.UnionType(types=types):
            inner = [(each, path) for each in types]
        case msgspec.inspect.DictType() | msgspec.inspect.AnyType():
            inner = []
            open_paths.add(path)
        case _:
            inner = []
    for inner_type, inner_path in inner:
        below, open_below = walked(inner_type, inner_path)
        structs |= below
        open_paths |= open_below
    return structs, open_paths


@pytest.mark.requirement("trap-secret-in-view")
def test_no_field_of_the_view_can_carry_a_secret_a_hash_or_a_private_key() -> None:
    structs, open_paths = walked(msgspec.inspect.type_info(EnforcementView), "")
    assert structs == PUBLIC_FIELDS
    assert open_paths == OPEN_FIELDS.keys()
    assert not {"d", "p", "q", "k", "dp", "dq", "qi", "oth"} & set(PUBLIC_MEMBERS)
    suspicious = ("secret", "hash", "private", "password", "token", "sealed")
    named = {name for fields in structs.values() for name in fields}
    assert {name for name in named if any(word in name for word in suspicious)} == {"token_keys"}


@pytest.mark.requirement("trap-secret-repointed")
def test_server_says_since_when_it_is_where_it_is(registry: Registry) -> None:
    def since() -> int:
        return published(registry).servers["crm"].url_since

    registry.apply(*small_set())
    assert since() == 0  # where it always was
    registry.clock.now += 10
    registry.apply(*replaced(small_set(), "McpServer", "crm", timeout_seconds=5.0))
    assert since() == 0
    registry.clock.now += 10
    moved = replaced(small_set(), "McpServer", "crm", url="http://127.0.0.1:9999/mcp")
    registry.apply(*moved)
    assert since() == int(registry.clock.now)
    at = since()
    registry.clock.now += 10
    registry.apply(*replaced(moved, "McpServer", "crm", timeout_seconds=5.0))
    assert since() == at
    registry.clock.now += 10
    registry.apply(*small_set())  # back home: what was agreed to in between was for elsewhere
    assert since() == int(registry.clock.now)


@pytest.mark.requirement("trap-secret-repointed")
def test_server_that_is_declared_again_came_then(registry: Registry) -> None:
    registry.apply(*small_set())
    dependants = (("Gateway", "demo"), ("Agent", "support-bot"), ("McpServer", "crm"))
    registry.apply(delete=dependants)
    registry.clock.now += 10
    registry.apply(*small_set())
    assert published(registry).servers["crm"].url_since == int(registry.clock.now)
