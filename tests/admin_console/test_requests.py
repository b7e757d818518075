"""Bad input is a clear error, never a 500, and is audited; what cannot be audited is not done."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from audit_log.event import EventType
from audit_log.spool import SpoolUnavailable
from database.errors import DatabaseBusyError
from registry.blocks import BlockKind
from tests.admin_console.stack import AdminStack

KILL = {"kind": "agent", "id": "support-bot", "reason": "test"}


@pytest.mark.requirement("attack-19")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "JSON"),
        (b"{", "line 1"),
        (b"[]", "fields"),
        (b"null", "fields"),
        (b'"text"', "fields"),
        (b'{"kind":"agent","kind":"sub","id":"x","reason":"y"}', "twice"),
        (b'{"kind":"agent","id":"x","reason":"y","reason":"z"}', "twice"),
        (b'{"kind":"agent","id":"x","reason":NaN}', "finite"),
        (b'{"kind":"agent","id":"x","reason":1e999}', "finite"),
        (b'{"kind":"agent","id":"\\ud800","reason":"y"}', "surrogate"),
        (b'{"kind":"agent","id":"a\\u0000b","reason":"y"}', "NUL"),
        (b'{"kind":"agent","id":"\xff","reason":"y"}', "UTF-8"),
        (b'{"kind":' + b"[" * 100 + b"]" * 100 + b"}", "nested"),
        (b"[" * 60_000, "nested"),
        (b'{"id":' + b"1" * 5_000 + b"}", "JSON"),
        (b"{} {}", "line 1"),
    ],
)
def test_admin_body_that_is_not_one_plain_json_value_is_refused(
    stack: AdminStack, content: bytes, message: str
) -> None:
    answer = stack.call("POST", "/blocks", content=content)

    assert (answer.status, answer.json["error"]) == (400, "invalid_request")
    assert message in answer.json["error_description"]
    assert len(stack.events(EventType.ADMIN_REFUSED)) == 1


@pytest.mark.requirement("attack-19")
def test_admin_body_of_another_kind_is_refused(stack: AdminStack) -> None:
    content = json.dumps(KILL).encode()
    refused = [
        stack.call("POST", "/blocks", who="usr_olga", content=content, headers=headers).status
        for headers in (
            {"content-type": "text/plain"},
            {"content-type": "application/x-www-form-urlencoded"},
            {"content-type": "application/json", "content-encoding": "gzip"},
        )
    ]
    accepted = stack.call(
        "POST",
        "/blocks",
        who="usr_olga",
        content=content,
        headers={"content-type": "application/json; charset=utf-8"},
    )

    assert refused == [415, 415, 415]
    assert accepted.status == 200


@pytest.mark.requirement("attack-19")
def test_admin_body_over_its_cap_is_refused_and_one_below_is_not(stack: AdminStack) -> None:
    small = json.dumps(KILL).encode()
    large = small + b" " * (65_537 - len(small))

    assert stack.call("POST", "/blocks", content=large).status == 413
    assert stack.call("POST", "/blocks", content=large[:-1]).status == 200


@pytest.mark.requirement("attack-19")
@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/audit?limit=0", "limit"),
        ("/audit?limit=1001", "limit"),
        ("/audit?limit=x", "limit"),
        ("/audit?before=0", "before"),
        ("/audit?since=yesterday", "since"),
        ("/audit?since=2026-11-21T00:00:00", "since"),
        ("/audit?type=nothing", "type"),
        ("/audit?agnet=x", "agnet"),
        ("/audit?agent=x&agent=y", "agent"),
        ("/whoami?x=1", "x"),
        ("/policies/status?wait=1000", "wait"),
    ],
)
def test_admin_query_that_is_wrong_names_the_parameter(
    stack: AdminStack, path: str, field: str
) -> None:
    answer = stack.call("GET", path)

    assert (answer.status, answer.json["error"]) == (400, "invalid_request")
    assert [each["field"] for each in answer.json["problems"]] == [field]


@pytest.mark.requirement("admin-errors")
def test_admin_error_never_repeats_the_input(stack: AdminStack) -> None:
    body: dict[str, Any] = {
        "identity_provider": "local",
        "username": "bob",
        "password": ["hunter2-hunter2"],
        "hunter2-field": 1,
    }

    answer = stack.call("POST", "/accounts", body=body)

    assert answer.status == 400
    assert "hunter2-hunter2" not in str(answer.json)
    assert "hunter2-hunter2" not in str(stack.events())


@pytest.mark.requirement("admin-errors")
def test_admin_unknown_operation_and_method_are_clear_errors(stack: AdminStack) -> None:
    assert stack.call("GET", "/nothing").json["error"] == "not_found"
    wrong = stack.call("PUT", "/blocks", body=KILL)
    assert (wrong.status, wrong.json["error"]) == (405, "method_not_allowed")
    assert "POST" in wrong.headers["allow"]


@pytest.mark.requirement("audit-fail-closed")
def test_admin_change_that_cannot_be_recorded_is_not_made(
    stack: AdminStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(_event: object) -> None:
        raise SpoolUnavailable("full")

    with monkeypatch.context() as patched:
        patched.setattr(stack.parts.spool, "record", full)
        refused = stack.call("POST", "/blocks", body=KILL)
        applied = stack.call("DELETE", "/objects/Agent/support-bot")
        read = stack.call("GET", "/blocks")

    assert (refused.status, refused.json["error"]) == (503, "temporarily_unavailable")
    assert applied.status == 503
    assert (read.status, read.json["sequence"]) == (200, 0)
    assert stack.call("GET", "/objects/Agent/support-bot").status == 200
    assert stack.call("POST", "/blocks", body=KILL).status == 200


@contextlib.contextmanager
def spool_that_fills_up(
    stack: AdminStack, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[EventType]]:
    """A spool with room for one event: which it was."""
    real = stack.parts.spool.record
    recorded: list[EventType] = []

    async def fills_up(event: Any) -> Any:
        if recorded:
            raise SpoolUnavailable("full")
        recorded.append(event.type)
        return await real(event)

    with monkeypatch.context() as patched:
        patched.setattr(stack.parts.spool, "record", fills_up)
        yield recorded


@pytest.mark.requirement("audit-fail-closed")
def test_admin_change_whose_outcome_cannot_be_recorded_says_that_it_was_made(
    stack: AdminStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    with spool_that_fills_up(stack, monkeypatch) as recorded:
        answer = stack.call("POST", "/gateways/demo/join")

    assert (answer.status, answer.json["error"]) == (503, "temporarily_unavailable")
    assert "was made" in answer.json["error_description"]
    assert recorded == [EventType.ADMIN_ALLOWED]


@pytest.mark.requirement("admin-objects")
def test_admin_change_of_objects_is_recorded_with_itself_although_the_spool_fills_up(
    stack: AdminStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    with spool_that_fills_up(stack, monkeypatch):
        assert stack.call("DELETE", "/objects/Agent/support-bot").status == 200

    assert stack.call("GET", "/objects/Agent/support-bot").status == 404
    last = stack.events(EventType.OBJECT_CHANGED)[-1]
    assert (last.object_ref, last.reasons) == ("Agent/support-bot", ("delete",))


@pytest.mark.requirement("trap-cut-unrecorded")
def test_admin_kill_is_recorded_with_itself_although_the_spool_fills_up(
    stack: AdminStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    with spool_that_fills_up(stack, monkeypatch):
        answer = stack.call("POST", "/blocks", body=KILL)

    assert answer.status == 200
    assert (BlockKind.AGENT, "support-bot") in stack.parts.live.blocks.entries
    assert [event.reasons for event in stack.events(EventType.BLOCKED)] == [(KILL["reason"],)]


@pytest.mark.requirement("admin-errors")
def test_admin_database_that_is_busy_is_said_to_be_unavailable(
    stack: AdminStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: object, **__: object) -> None:
        raise DatabaseBusyError("too many writes are waiting")

    with monkeypatch.context() as patched:
        patched.setattr(stack.parts.revocations, "block", busy)
        answer = stack.call("POST", "/blocks", body=KILL)

    assert (answer.status, answer.headers["retry-after"]) == (503, "1")


@pytest.mark.requirement("admin-errors")
def test_admin_fault_nobody_expected_is_a_plain_server_error(
    stack: AdminStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ZeroDivisionError("secret inner text")

    with monkeypatch.context() as patched:
        patched.setattr(stack.parts.revocations, "block", fails)
        answer = stack.call("POST", "/blocks", body=KILL)

    assert (answer.status, answer.json["error"]) == (500, "server_error")
    assert "inner" not in str(answer.json)
    assert stack.call("POST", "/blocks", body=KILL).status == 200


@pytest.mark.requirement("attack-25")
@pytest.mark.parametrize("path", ["/objects/", "/whoami/", "/admin/v1/objects/"])
def test_admin_path_with_a_slash_too_many_is_not_found_and_no_redirect_to_the_host_header(
    stack: AdminStack, path: str
) -> None:
    answer = stack.call("GET", path)
    assert answer.status == 404
    assert "location" not in answer.headers


def test_admin_path_twin_without_the_slash_is_served(stack: AdminStack) -> None:
    assert stack.call("GET", "/objects").status == 200
