"""An Agent that describes the server itself would shut its operator out, and is not declared."""

from typing import Any

import pytest

from idp_connectors.catalog import settings_models
from idp_connectors.workload.operator_lockout import lockout_check, own_processes
from registry.changes import planned_changes
from registry.declared import DeclaredSet, Problem
from registry.objects import DeclaredObject
from tests.idp_connectors.samples import process

SERVER = process(pid=60, unit="countersign.service", parent_pid=1, script_digest="sha-256:aa")
INIT = process(pid=1, uid=0, parent_pid=0, exe="/sbin/init")


def trust(**settings: object) -> DeclaredObject:
    spec = {"type": "unix_process", **settings}
    return DeclaredObject(kind="TrustProvider", name="this-machine", spec=spec)


def bot(match: dict[str, str]) -> DeclaredObject:
    attestation = {"providers": ["this-machine"], "match": match}
    spec = {"owner": "a@example.com", "attestation": attestation, "tools": []}
    return DeclaredObject(kind="Agent", name="bot", spec=spec)


def problems(*objects: DeclaredObject, changed: tuple[DeclaredObject, ...]) -> list[Problem]:
    specs: dict[tuple[str, str], dict[str, Any]] = {
        (each.kind, each.name): each.spec for each in objects
    }
    declared, invalid = DeclaredSet.of(specs, settings_models())
    assert invalid == ()
    changes, _ = planned_changes(changed, (), {})
    return list(lockout_check((SERVER, INIT))(changes, declared))


@pytest.mark.requirement("trap-agent-as-admin")
@pytest.mark.parametrize(
    ("match", "says"),
    [
        ({"unix.uid": "1000"}, "this server itself"),
        ({"unix.uid": "1000", "unix.unit": "countersign.service"}, "this server itself"),
        ({"unix.uid": "0"}, "process 1, which started it"),
    ],
)
def test_agent_that_describes_the_server_is_refused(match: dict[str, str], says: str) -> None:
    agent = bot(match)
    (problem,) = problems(trust(), agent, changed=(agent,))
    assert (problem.kind, problem.name) == ("Agent", "bot")
    assert problem.field == "spec.attestation.match"
    assert says in problem.message
    assert "unix.unit" in problem.message


@pytest.mark.parametrize(
    "match",
    [
        {"unix.uid": "1001"},
        {"unix.uid": "1000", "unix.unit": "bot.service"},
        {"unix.uid": "1000", "unix.script_digest": "sha-256:bb"},
    ],
)
def test_agent_told_apart_from_the_server_is_declared(match: dict[str, str]) -> None:
    agent = bot(match)
    assert problems(trust(demo=True), agent, changed=(agent,)) == []


def test_agent_declared_before_is_judged_only_when_it_or_its_provider_changes() -> None:
    agent, other = bot({"unix.uid": "1000"}), trust()
    assert problems(other, agent, changed=()) == []
    assert len(problems(other, agent, changed=(other,))) == 1


def test_server_knows_itself_and_its_parents() -> None:
    processes = own_processes()
    assert processes[0].parent_pid == processes[1].pid
