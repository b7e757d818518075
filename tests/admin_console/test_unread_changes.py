"""What was changed stands and is answered so, also when this process cannot read it already."""

from collections.abc import Callable

import pytest

from audit_log.event import EventType
from database.errors import DatabaseUnavailableError
from registry.blocks import BlockKind
from registry.publisher import UnpublishableRegistryError
from tests.admin_console.stack import AdminStack
from tests.admin_console.test_objects import documents
from tests.registry.samples import replaced, small_set

BLOCKED = BlockKind.AGENT, "support-bot"
KILL = {"kind": "agent", "id": "support-bot", "reason": "leaks data"}


@pytest.fixture(
    params=[UnpublishableRegistryError(()), DatabaseUnavailableError("away")],
    ids=["unpublishable", "away"],
)
def unread(
    request: pytest.FixtureRequest, stack: AdminStack, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], None]:
    """From then on the registry in memory takes nothing in, as where a newer release wrote."""

    async def fails() -> None:
        raise request.param

    return lambda: monkeypatch.setattr(stack.parts.live, "refresh", fails)


@pytest.mark.requirement("C57")
def test_kill_and_restore_that_nobody_here_can_read_yet_are_made(
    stack: AdminStack, unread: Callable[[], None]
) -> None:
    unread()
    killed = stack.call("POST", "/blocks", body=KILL)
    assert (killed.status, killed.json["blocked"]) == (200, True)
    assert stack.parts.revocations.state().entries[BLOCKED].blocked
    restored = stack.call("DELETE", "/blocks/agent/support-bot")
    assert (restored.status, restored.json["blocked"]) == (200, False)
    assert not stack.parts.revocations.state().entries[BLOCKED].blocked


@pytest.mark.requirement("admin-account-changes")
def test_account_change_that_nobody_here_can_read_yet_is_made(
    stack: AdminStack, unread: Callable[[], None]
) -> None:
    bob = {"identity_provider": "local", "username": "bob", "password": "correct horse battery"}
    stack.call("POST", "/accounts", body=bob, who="usr_alice")
    unread()
    changed = stack.call("PATCH", "/accounts/local/bob", body={"disabled": True}, who="usr_alice")
    assert (changed.status, changed.json["disabled"]) == (200, True)


@pytest.mark.requirement("admin-objects")
def test_objects_applied_that_nobody_here_can_read_yet_are_stored_and_recorded(
    stack: AdminStack, unread: Callable[[], None]
) -> None:
    before = len(stack.events(EventType.OBJECT_CHANGED))
    unread()
    changed = replaced(small_set(), "Agent", "support-bot", environment="staging")
    answer = stack.call("POST", "/objects", body=documents(*changed))
    assert (answer.status, len(answer.json["changes"])) == (200, 1)
    spec = stack.call("GET", "/objects/Agent/support-bot").json["spec"]
    assert spec["environment"] == "staging"
    assert len(stack.events(EventType.OBJECT_CHANGED)) == before + 1
