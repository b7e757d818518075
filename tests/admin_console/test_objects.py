import asyncio
from typing import Any

import pytest
from sqlalchemy import Connection

from admin_console import apply
from audit_log.event import EventType
from audit_log.transaction_log import SOURCE as DATABASE
from countersign import policy_audit
from database.errors import DatabaseUnavailableError
from tests.admin_console.stack import AdminStack
from tests.registry.samples import declare, observed_digests, replaced, small_set, tool


def documents(*objects: Any) -> dict[str, Any]:
    return {"objects": [each.model_dump() for each in objects]}


def agent(**spec: object) -> Any:
    changed = replaced(small_set(), "Agent", "support-bot", **spec)
    return next(each for each in changed if each.kind == "Agent")


@pytest.mark.requirement("admin-objects")
def test_objects_applied_are_a_version_with_author_and_an_event_each(empty: AdminStack) -> None:
    answer = empty.call("POST", "/objects", body=documents(*small_set()))

    assert answer.status == 200
    assert answer.json["version"] == 1
    assert {change["action"] for change in answer.json["changes"]} == {"create"}
    stored = empty.call("GET", "/objects/Agent/support-bot").json
    assert (stored["author"], stored["version"]) == ("local:1000", 1)
    assert stored["changed_at"].startswith("2027-01-15T08:00:00")
    changed = empty.events(EventType.OBJECT_CHANGED)
    assert {event.object_ref for event in changed} == {
        f"{each.kind}/{each.name}" for each in small_set()
    }
    assert {event.author for event in changed} == {"local:1000"}
    assert {(event.source, event.detail) for event in changed} == {(DATABASE, "version 1")}
    assert "support-bot" in empty.parts.live.snapshot.agents


@pytest.mark.requirement("admin-objects")
def test_objects_that_cannot_be_recorded_are_not_changed(
    empty: AdminStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_connection: Connection, *_: object) -> None:
        raise RuntimeError("the audit takes no event")

    with monkeypatch.context() as broken:
        broken.setattr(apply, "append_in", fails)
        assert empty.call("POST", "/objects", body=documents(*small_set())).status == 500
    assert empty.call("GET", "/objects").json["objects"] == []
    assert empty.call("POST", "/objects", body=documents(*small_set())).json["version"] == 1


@pytest.mark.requirement("admin-objects")
def test_objects_dry_run_shows_the_difference_and_writes_nothing(stack: AdminStack) -> None:
    before = stack.call("GET", "/objects").json

    answer = stack.call(
        "POST", "/objects?dry_run=true", body=documents(agent(environment="staging"))
    )

    assert answer.json["changes"] == [
        {
            "kind": "Agent",
            "name": "support-bot",
            "action": "update",
            "fields": [{"field": "spec.environment", "before": None, "after": "staging"}],
        }
    ]
    assert stack.call("GET", "/objects").json == before


@pytest.mark.requirement("admin-objects")
def test_objects_that_change_nothing_are_no_version(stack: AdminStack) -> None:
    version = stack.call("GET", "/policies/status").json["version"]

    answer = stack.call("POST", "/objects", body=documents(*small_set()))

    assert (answer.json["changes"], answer.json["version"]) == ([], version)


@pytest.mark.requirement("admin-errors")
def test_objects_with_problems_name_object_and_field_and_change_nothing(
    stack: AdminStack,
) -> None:
    body = documents(agent(tools=["crm/get_*", "NOT A PATTERN"]), agent())
    body["objects"][1] = {"kind": "Agnet", "name": "x", "spec": {}}

    shape = stack.call("POST", "/objects", body=body)
    spec = stack.call("POST", "/objects", body={"objects": body["objects"][:1]})
    reference = stack.call(
        "POST",
        "/objects",
        body=documents(
            declare("Gateway", "demo2", base_url="http://127.0.0.1:8709", servers=["crn"])
        ),
    )

    assert (shape.status, shape.json["error"]) == (400, "invalid_object")
    assert shape.json["problems"][0]["field"] == "kind"
    assert "'Agent'" in shape.json["problems"][0]["message"]
    (problem,) = spec.json["problems"]
    assert (problem["kind"], problem["name"], problem["field"]) == (
        "Agent",
        "support-bot",
        "spec.tools[1]",
    )
    assert "crm" in reference.json["problems"][0]["message"]
    assert len(stack.events(EventType.ADMIN_REFUSED)) == 3


@pytest.mark.requirement("admin-objects")
def test_objects_deleted_leave_their_history(stack: AdminStack) -> None:
    deleted = stack.call("DELETE", "/objects/Agent/support-bot", who="usr_olga")

    history = stack.call("GET", "/objects/Agent/support-bot/history").json["history"]
    assert deleted.status == 200
    assert stack.call("GET", "/objects/Agent/support-bot").status == 404
    assert [(each["action"], each["author"]) for each in history] == [
        ("delete", "local/acc_olga"),
        ("create", "local:1000"),
    ]


@pytest.mark.requirement("admin-objects")
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/objects/Nothing"),
        ("GET", "/objects/Agent/nobody"),
        ("GET", "/objects/Agent/nobody/history"),
        ("DELETE", "/objects/Agent/nobody"),
        ("DELETE", "/objects/Nothing/nobody"),
        ("GET", "/catalogue/nothing"),
        ("POST", "/gateways/nothing/join"),
        ("GET", "/audit/decisions/dec_nothing"),
        ("DELETE", "/blocks/agent/nobody"),
    ],
)
def test_admin_naming_what_does_not_exist_is_not_found(
    stack: AdminStack, method: str, path: str
) -> None:
    answer = stack.call(method, path)

    assert (answer.status, answer.json["error"]) == (404, "not_found")


@pytest.mark.requirement("admin-objects")
def test_objects_of_one_kind_are_listed(stack: AdminStack) -> None:
    found = stack.call("GET", "/objects/AdminRole", who="usr_vera").json["objects"]

    assert [each["name"] for each in found] == ["alice", "olga", "vera"]


@pytest.mark.requirement("admin-policies")
def test_policy_set_that_names_an_unapproved_tool_waits_until_it_is_approved(
    stack: AdminStack,
) -> None:
    stack.run(stack.parts.catalogue.observe("crm", [tool("refund")]))
    looked_at = observed_digests(stack.parts.catalogue, "refund")
    policy = declare("Policy", "support", cedar="crm/refund")
    applied = stack.call("POST", "/objects", body=documents(policy)).json

    async def approve_while_waiting() -> tuple[Any, Any]:
        waiting = asyncio.create_task(stack.acall("GET", "/policies/status?wait=10"))
        await asyncio.sleep(0)
        approved = await stack.acall(
            "POST", "/catalogue/crm/approve", body={"tools": looked_at}, who="usr_olga"
        )
        return approved, await waiting

    approved, status = stack.run(approve_while_waiting())

    assert (applied["policy_state"], applied["waiting_for"]) == ("waiting_for", ["crm/refund"])
    assert approved.json == {"approved": ["refund"], "policy_state": "active", "waiting_for": []}
    assert (status.json["state"], status.json["policy_version"]) == ("active", 1)
    (activated,) = stack.events(EventType.POLICY_ACTIVATED)
    assert (activated.author, activated.policy_version) == ("local/acc_olga", 1)


@pytest.mark.requirement("admin-policies")
@pytest.mark.requirement("trap-act-unrecorded")
def test_policy_set_that_a_tool_seen_by_a_gateway_makes_live_is_recorded(
    stack: AdminStack,
) -> None:
    crm = replaced(small_set(), "McpServer", "crm", approve="first_seen")
    server = next(each for each in crm if each.kind == "McpServer")
    policy = declare("Policy", "support", cedar="crm/refund")
    stack.call("POST", "/objects", body=documents(server, policy))
    before = stack.events(EventType.POLICY_ACTIVATED)

    stack.run(stack.parts.catalogue.observe("crm", [tool("refund")]))
    stack.run(stack.parts.catalogue.observe("crm", [tool("refund"), tool("get_account")]))

    (activated,) = stack.events(EventType.POLICY_ACTIVATED)
    assert before == []
    assert (activated.author, activated.policy_version) == ("approve:first_seen", 1)


@pytest.mark.requirement("trap-act-unrecorded")
def test_policy_set_that_cannot_be_recorded_is_not_live_and_may_be_applied_again(
    stack: AdminStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = documents(declare("Policy", "support", cedar=" "))

    def broken(*_: object) -> None:
        raise DatabaseUnavailableError("full")

    with monkeypatch.context() as patched:
        patched.setattr(policy_audit, "append_in", broken)
        refused = stack.call("POST", "/objects", body=body)
    version = stack.parts.registry.policy_state().live_version
    applied = stack.call("POST", "/objects", body=body)

    assert (refused.status, version) == (503, 0)
    assert (applied.status, applied.json["policy_version"]) == (200, 1)
    (activated,) = stack.events(EventType.POLICY_ACTIVATED)
    assert (activated.author, activated.policy_version) == ("local:1000", 1)


@pytest.mark.requirement("admin-policies")
def test_policy_status_without_wait_answers_at_once(stack: AdminStack) -> None:
    policy = declare("Policy", "support", cedar="crm/refund")
    stack.call("POST", "/objects", body=documents(policy))

    status = stack.call("GET", "/policies/status", who="usr_vera").json

    assert (status["state"], status["waiting_for"]) == ("waiting_for", ["crm/refund"])


@pytest.mark.requirement("admin-errors")
def test_policy_that_does_not_compile_names_document_and_line(stack: AdminStack) -> None:
    policy = declare("Policy", "support", cedar="error")

    answer = stack.call("POST", "/objects", body=documents(policy))

    assert answer.status == 400
    assert answer.json["problems"] == [
        {
            "kind": "Policy",
            "name": "support",
            "field": "spec.cedar:1",
            "message": "p1: wrong",
        }
    ]


@pytest.mark.requirement("admin-catalogue")
def test_catalogue_shows_what_is_observed_and_what_is_approved(stack: AdminStack) -> None:
    stack.run(stack.parts.catalogue.observe("crm", [tool("refund"), tool("get_account")]))
    before = stack.call("GET", "/catalogue/crm", who="usr_vera").json["tools"]

    digests = observed_digests(stack.parts.catalogue, "refund")
    stack.call("POST", "/catalogue/crm/approve", body={"tools": digests})

    after = {each["name"]: each for each in stack.call("GET", "/catalogue/crm").json["tools"]}
    assert {each["state"] for each in before} == {"observed"}
    assert (after["refund"]["state"], after["get_account"]["state"]) == ("approved", "observed")
    assert after["refund"]["approved_digest"] == after["refund"]["observed_digest"]
    assert after["refund"]["approved_by"] == "local:1000"
    (event,) = stack.events(EventType.CATALOGUE_CHANGED)
    assert (event.tool, event.author) == ("crm/refund", "local:1000")


@pytest.mark.requirement("admin-catalogue")
def test_catalogue_approving_a_tool_nobody_offers_is_not_found(stack: AdminStack) -> None:
    answer = stack.call("POST", "/catalogue/crm/approve", body={"tools": {"nothing": "sha-256:x"}})

    assert (answer.status, answer.json["error"]) == (404, "not_found")
    assert stack.events(EventType.CATALOGUE_CHANGED) == []


@pytest.mark.requirement("trap-approved-as-seen")
def test_catalogue_approving_what_changed_since_it_was_looked_at_is_a_conflict(
    stack: AdminStack,
) -> None:
    catalogue = stack.parts.catalogue
    stack.run(catalogue.observe("crm", [tool("refund"), tool("get_account")]))
    looked_at = observed_digests(catalogue, "get_account", "refund")
    stack.run(catalogue.observe("crm", [tool("refund", "Now evil."), tool("get_account")]))

    refused = stack.call("POST", "/catalogue/crm/approve", body={"tools": looked_at})
    by_name = stack.call("POST", "/catalogue/crm/approve", body={"tools": ["refund"]})

    assert (refused.status, refused.json["error"]) == (409, "conflict")
    (problem,) = refused.json["problems"]
    assert (problem["kind"], problem["name"], problem["field"]) == (
        "McpServer",
        "crm",
        "tools.refund",
    )
    assert by_name.status == 400
    assert stack.events(EventType.CATALOGUE_CHANGED) == []
    fresh = observed_digests(catalogue, "get_account", "refund")
    approved = stack.call("POST", "/catalogue/crm/approve", body={"tools": fresh})
    assert approved.json["approved"] == ["get_account", "refund"]


@pytest.mark.requirement("admin-catalogue")
def test_catalogue_shows_what_the_operator_declared_of_a_tool(stack: AdminStack) -> None:
    declared = replaced(small_set(), "McpServer", "crm", tools={"get": {"read_only": True}})
    stack.call("POST", "/objects", body=documents(*declared))
    boastful = tool("put") | {"annotations": {"readOnlyHint": True}}
    stack.run(stack.parts.catalogue.observe("crm", [tool("get"), boastful]))

    shown = stack.call("GET", "/catalogue/crm", who="usr_vera").json["tools"]

    assert {each["name"]: each["read_only"] for each in shown} == {"get": True, "put": False}
