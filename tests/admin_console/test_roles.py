"""The route table as data: each endpoint is served for its role and for none below."""

import re

import pytest

from admin_console.operation import Operation
from admin_console.roles import ADMIN_KINDS, Access
from admin_console.routes import OPERATIONS
from audit_log.event import EventType
from tests.admin_console.stack import AdminStack, role
from tests.registry.samples import declare

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
