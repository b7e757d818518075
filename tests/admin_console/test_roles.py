"""The route table as data: each endpoint is served for its role and for none below."""

import re

import pytest

from admin_console.operation import Operation
from admin_console.roles import ADMIN_KINDS, Access
from admin_console.routes import OPERATIONS
from audit_log.event import EventType
from registry.objects import DeclaredObject
from tests.admin_console.stack import AdminStack, Answer, role
from tests.registry.samples import declare, replaced, small_set

HOLDERS = {
    Access.PERSON: "usr_nobody",
    Access.VIEWER: "usr_vera",
    Access.OPERATOR: "usr_olga",
    Access.ADMIN: "usr_alice",
}
BODY = {"nothing": "that fits"}


def named(operation: Operation) -> str:
    return f"{operation.method} {operation.path}"


def sample_path(operation: Operation) -> str:
    return re.sub(r"\{[^}]*\}", "x", operation.path)


@pytest.mark.requirement("admin-roles")
@pytest.mark.parametrize("operation", OPERATIONS, ids=named)
def test_admin_endpoint_refuses_every_role_below_its_own(
    stack: AdminStack, operation: Operation
) -> None:
    for access, who in HOLDERS.items():
        answer = stack.call(
            operation.method,
            sample_path(operation),
            who=who,
            body=None if operation.body is None else BODY,
        )
        is_refused = (answer.status, answer.json.get("error")) == (403, "insufficient_role")
        assert is_refused == (access < operation.access), (who, answer.json)


@pytest.mark.requirement("admin-roles")
@pytest.mark.parametrize("operation", OPERATIONS, ids=named)
def test_admin_endpoint_refuses_a_caller_without_credentials(
    stack: AdminStack, operation: Operation
) -> None:
    body = None if operation.body is None else BODY

    answer = stack.call(operation.method, sample_path(operation), body=body, extensions={})

    assert answer.status == 401
    assert len(stack.events(EventType.ADMIN_REFUSED)) == 1


@pytest.mark.requirement("admin-roles")
def test_admin_operator_cannot_give_themself_a_role(stack: AdminStack) -> None:
    body = {"objects": [role("olga", "acc_olga", "admin")]}

    refused = stack.call("POST", "/objects", who="usr_olga", body=body)
    dry = stack.call("POST", "/objects?dry_run=true", who="usr_olga", body=body)
    done = stack.call("POST", "/objects", who="usr_alice", body=body)

    assert (refused.status, refused.json["error"]) == (403, "insufficient_role")
    assert (dry.status, done.status) == (200, 200)


@pytest.mark.requirement("admin-roles")
def test_admin_operator_cannot_delete_or_change_who_vouches(stack: AdminStack) -> None:
    provider = declare("IdentityProvider", "local", type="local_accounts", groups=["support"])

    changed = stack.call(
        "POST", "/objects", who="usr_olga", body={"objects": [provider.model_dump()]}
    )
    deleted = stack.call("DELETE", "/objects/AdminRole/alice", who="usr_olga")
    own = stack.call("DELETE", "/objects/Agent/support-bot", who="usr_olga")

    assert (changed.status, deleted.status, own.status) == (403, 403, 200)
    assert {"AdminRole", "IdentityProvider", "TrustProvider"} == ADMIN_KINDS


EVIL = "http://127.0.0.1:6666/mcp"


def guarding_a_secret() -> list[DeclaredObject]:
    """A server with a static secret, one without, a provider of each, and two gateways."""
    server = {"url": "http://127.0.0.1:9002/mcp", "credential": {"provider": "notes-key"}}
    return [
        declare("CredentialProvider", "notes-key", type="static_secret", secret="notes-api-key"),
        declare("CredentialProvider", "own-token", type="issued_token"),
        declare(
            "CredentialProvider",
            "wide-token",
            type="issued_token",
            audience="https://wiki.example.com",
        ),
        declare("McpServer", "notes", **server),
        declare(
            "McpServer",
            "wiki",
            url="http://127.0.0.1:9003/mcp",
            credential={"provider": "own-token"},
        ),
        declare("Gateway", "back", base_url="http://127.0.0.1:8711", servers=["notes"]),
        declare("Gateway", "front", base_url="http://127.0.0.1:8712", servers=["wiki"]),
    ]


def changed(kind: str, name: str, **spec: object) -> DeclaredObject:
    found = replaced(guarding_a_secret(), kind, name, **spec)
    return next(each for each in found if (each.kind, each.name) == (kind, name))


NOTES_KEY = {"credential": {"provider": "notes-key"}}
WHERE_A_SECRET_GOES = {
    "url of a server with a secret": [changed("McpServer", "notes", url=EVIL)],
    "credential away from a secret": [
        changed("McpServer", "notes", credential={"provider": "own-token"})
    ],
    "credential to a secret": [changed("McpServer", "wiki", **NOTES_KEY)],
    "new server with a secret": [declare("McpServer", "new", url=EVIL, **NOTES_KEY)],
    "settings of a secret's provider": [changed("CredentialProvider", "notes-key", header="X-Key")],
    "provider that becomes one of a secret": [
        declare("CredentialProvider", "own-token", type="static_secret", secret="notes-api-key")
    ],
    "provider that was one of a secret": [
        declare("CredentialProvider", "notes-key", type="issued_token")
    ],
    "new provider of a secret and its server": [
        declare("CredentialProvider", "mine", type="static_secret", secret="notes-api-key"),
        declare("McpServer", "mine", url=EVIL, credential={"provider": "mine"}),
    ],
    "base url of a gateway": [changed("Gateway", "front", base_url="http://127.0.0.1:8799")],
    "new gateway": [
        declare("McpServer", "open", url=EVIL, credential={"provider": "own-token"}),
        declare("Gateway", "new", base_url="http://127.0.0.1:8798", servers=["open"]),
    ],
    "secret to another gateway": [changed("Gateway", "front", servers=["wiki", "notes"])],
    "url of a server with a token": [changed("McpServer", "wiki", url=EVIL)],
    "credential of a server with a token": [
        changed("McpServer", "wiki", credential={"provider": "wide-token"})
    ],
    "audience of a token": [
        changed("CredentialProvider", "own-token", audience="https://notes.example.com")
    ],
    "no audience where one was stated": [
        changed("CredentialProvider", "wide-token", audience=None)
    ],
    "new provider with an audience": [
        declare(
            "CredentialProvider", "mine", type="issued_token", audience="https://notes.example.com"
        )
    ],
    "new server with a token for a stated audience": [
        declare("McpServer", "new", url=EVIL, credential={"provider": "wide-token"})
    ],
    "url and audience together": [
        changed("McpServer", "wiki", url=EVIL),
        changed("CredentialProvider", "own-token", audience="http://127.0.0.1:9003/mcp"),
    ],
}
ORDINARY = {
    "new server with a token for itself": [
        declare("McpServer", "new", url=EVIL, credential={"provider": "own-token"})
    ],
    "other field of a server with a secret": [changed("McpServer", "notes", timeout_seconds=5.0)],
    "provider without a secret": [changed("CredentialProvider", "own-token", lifetime_seconds=60)],
    "other field of a gateway": [
        changed("Gateway", "front", allowed_origins=["https://console.example.com"])
    ],
    "nothing": guarding_a_secret(),
}


def apply(stack: AdminStack, who: str, objects: list[DeclaredObject]) -> Answer:
    body = {"objects": [each.model_dump() for each in objects]}
    return stack.call("POST", "/objects", who=who, body=body)


@pytest.mark.requirement("trap-secret-repointed")
@pytest.mark.parametrize("case", WHERE_A_SECRET_GOES)
def test_admin_operator_cannot_change_where_a_static_secret_goes(
    stack: AdminStack, case: str
) -> None:
    assert apply(stack, "usr_alice", guarding_a_secret()).status == 200

    refused = apply(stack, "usr_olga", WHERE_A_SECRET_GOES[case])
    written = len(stack.events(EventType.OBJECT_CHANGED))
    done = apply(stack, "usr_alice", WHERE_A_SECRET_GOES[case])

    assert (refused.status, refused.json["error"]) == (403, "insufficient_role")
    assert written == len(stack.events(EventType.OBJECT_CHANGED)) - len(done.json["changes"])
    assert (done.status, bool(done.json["changes"])) == (200, True)


@pytest.mark.requirement("trap-secret-repointed")
@pytest.mark.parametrize("case", ORDINARY)
def test_admin_operator_may_change_what_no_static_secret_follows(
    stack: AdminStack, case: str
) -> None:
    assert apply(stack, "usr_alice", guarding_a_secret()).status == 200

    assert apply(stack, "usr_olga", ORDINARY[case]).status == 200


@pytest.mark.requirement("trap-secret-repointed")
def test_admin_operator_cannot_repoint_a_secret_in_steps(stack: AdminStack) -> None:
    assert apply(stack, "usr_alice", guarding_a_secret()).status == 200
    everything = {"delete": [{"kind": "Gateway", "name": "back"}]}
    assert stack.call("POST", "/objects", who="usr_olga", body=everything).status == 200
    assert stack.call("DELETE", "/objects/McpServer/notes", who="usr_olga").status == 200
    provider = stack.call("DELETE", "/objects/CredentialProvider/notes-key", who="usr_olga")
    again = apply(stack, "usr_olga", [declare("McpServer", "notes", url=EVIL, **NOTES_KEY)])

    assert (provider.status, again.status) == (403, 403)


def acting_for(consent: str, **changes: object) -> DeclaredObject:
    """The agent of the small set, which may present tokens of people of `partner`."""
    acts_for = {
        "groups": ["partner/staff"],
        "consent": consent,
        "subject_tokens": [{"identity_provider": "partner", "client_ids": ["portal"]}],
    }
    found = replaced(small_set(), "Agent", "support-bot", acts_for=acts_for, **changes)
    return next(each for each in found if each.kind == "Agent")


@pytest.mark.requirement("admin-roles")
def test_admin_operator_cannot_have_an_agent_act_for_people_who_were_not_asked(
    stack: AdminStack,
) -> None:
    """A mandate, and everything that decides who has it, is an admin's word."""
    partner = declare("IdentityProvider", "partner", type="oidc", issuer="https://idp.example.com")
    assert apply(stack, "usr_alice", [partner]).status == 200

    asking = apply(stack, "usr_olga", [acting_for("person")])
    mandate = apply(stack, "usr_olga", [acting_for("mandate")])
    by_admin = apply(stack, "usr_alice", [acting_for("mandate")])
    another_workload = {"providers": ["unix"], "match": {"unix.uid": "1"}}
    taken_over = apply(stack, "usr_olga", [acting_for("mandate", attestation=another_workload)])
    taken_away = apply(stack, "usr_olga", [acting_for("person")])

    assert (asking.status, by_admin.status, taken_away.status) == (200, 200, 200)
    assert (mandate.status, mandate.json["error"]) == (403, "insufficient_role")
    assert taken_over.status == 403
