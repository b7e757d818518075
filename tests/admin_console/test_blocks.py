import asyncio

import pytest

from audit_log.event import AuditEvent, EventType, Outcome, iso_timestamp
from authz_server.grants.used_twice import AUTHOR
from registry.acks import Ack
from registry.blocks import AGENT_AUTHOR, BlockKind
from tests.admin_console.stack import AdminStack
from tests.token_exchange.signing import NOW

KILL = {"kind": "agent", "id": "support-bot", "reason": "leaks data"}


def confirm(stack: AdminStack, worker: str, sequence: int, after_ms: int) -> None:
    ack = Ack("demo", worker, sequence, 1, NOW * 1000 + after_ms, NOW * 1000 + after_ms + 1)
    stack.run(stack.parts.acks.record_ack(ack))


def report(stack: AdminStack, source: str, *, ended: bool = False) -> None:
    kind = EventType.SOURCE_STOPPED if ended else EventType.SOURCE_STARTED
    event = AuditEvent(
        event_id=f"evt_{source}",
        timestamp=iso_timestamp(NOW),
        type=kind,
        outcome=Outcome.SUCCEEDED,
        source=source,
        sequence=1,
    )
    stack.run(stack.parts.audit_store.ingest(source, 1, [event]))


@pytest.mark.requirement("C57")
def test_kill_sets_block_and_epoch_and_answers_sequence_and_time(stack: AdminStack) -> None:
    answer = stack.call("POST", "/blocks", body=KILL, who="usr_olga")

    assert answer.status == 200
    assert answer.json == {
        "sequence": 1,
        "kind": "agent",
        "id": "support-bot",
        "blocked": True,
        "not_before": NOW,
        "at_ms": NOW * 1000,
        "is_known": True,
        "target_tokens_live_seconds": 300,
    }
    entry = stack.parts.live.blocks.entries[BlockKind.AGENT, "support-bot"]
    assert (entry.blocked, entry.not_before) == (True, NOW)
    (event,) = stack.events(EventType.BLOCKED)
    assert (event.author, event.object_ref, event.agent, event.reasons) == (
        "local/acc_olga",
        "agent/support-bot",
        "support-bot",
        ("leaks data",),
    )


@pytest.mark.requirement("C57")
def test_kill_is_admitted_in_the_audit_before_it_happens(stack: AdminStack) -> None:
    before = [event.event_id for event in stack.events()]
    stack.call("POST", "/blocks", body=KILL)

    kinds = [event.type for event in stack.events() if event.event_id not in before]
    assert kinds == [EventType.ADMIN_ALLOWED, EventType.BLOCKED]


@pytest.mark.requirement("C57")
def test_restore_lifts_the_block_and_keeps_the_epoch(stack: AdminStack) -> None:
    stack.call("POST", "/blocks", body=KILL)

    answer = stack.call("DELETE", "/blocks/agent/support-bot?reason=fixed", who="usr_alice")

    assert (answer.json["blocked"], answer.json["not_before"]) == (False, NOW)
    assert stack.call("GET", "/blocks").json == {
        "sequence": 2,
        "blocks": [
            {
                "kind": "agent",
                "id": "support-bot",
                "blocked": False,
                "not_before": NOW,
                "author": "local/acc_alice",
                "reason": "fixed",
            }
        ],
    }
    (event,) = stack.events(EventType.RESTORED)
    assert event.reasons == ("fixed",)


def ended(stack: AdminStack, kind: BlockKind, name: str, author: str) -> None:
    revocations = stack.parts.revocations
    stack.run(revocations.block(kind, name, reason="over", author=author))


def listed(stack: AdminStack, query: str = "") -> list[tuple[str, str]]:
    return [
        (each["kind"], each["id"]) for each in stack.call("GET", f"/blocks{query}").json["blocks"]
    ]


@pytest.mark.requirement("blocks-by-people")
def test_runs_that_agents_ended_are_listed_only_when_asked_for(
    stack: AdminStack,
) -> None:
    stack.call("POST", "/blocks", body=KILL | {"kind": "inv", "id": "inv_killed"})
    ended(stack, BlockKind.INVOCATION, "inv_alone", f"{AGENT_AUTHOR}batch-bot")
    ended(stack, BlockKind.INVOCATION, "inv_person", f"{AGENT_AUTHOR}support-bot for usr_1")
    ended(stack, BlockKind.TOKEN, "tok_twice", AUTHOR)
    stack.call("POST", "/blocks", body=KILL)

    others = [("agent", "support-bot"), ("jti", "tok_twice"), ("inv", "inv_killed")]
    assert listed(stack) == listed(stack, "?runs=false") == others
    assert listed(stack, "?runs=true") == [
        ("agent", "support-bot"),
        ("jti", "tok_twice"),
        ("inv", "inv_person"),
        ("inv", "inv_alone"),
        ("inv", "inv_killed"),
    ]
    assert stack.call("GET", "/blocks").json["sequence"] == 5
    assert stack.call("GET", "/blocks?runs=perhaps").status == 400


@pytest.mark.requirement("blocks-by-people")
def test_whoever_cuts_off_anything_but_a_run_is_listed_also_without_asking(
    stack: AdminStack,
) -> None:
    ended(stack, BlockKind.SESSION, "ses_1", f"{AGENT_AUTHOR}support-bot")
    ended(stack, BlockKind.SUBJECT, "usr_1", AUTHOR)

    assert listed(stack) == [("sub", "usr_1"), ("sid", "ses_1")]


@pytest.mark.requirement("blocks-by-people")
def test_run_that_an_agent_ended_is_listed_when_an_operator_kills_it_as_well(
    stack: AdminStack,
) -> None:
    ended(stack, BlockKind.INVOCATION, "inv_1", f"{AGENT_AUTHOR}batch-bot")
    assert listed(stack) == []

    stack.call("POST", "/blocks", body=KILL | {"kind": "inv", "id": "inv_1"})
    assert listed(stack) == [("inv", "inv_1")]


@pytest.mark.requirement("C57")
def test_restore_of_what_is_known_and_not_blocked_says_so(stack: AdminStack) -> None:
    stack.call("POST", "/blocks", body=KILL)
    stack.call("DELETE", "/blocks/agent/support-bot")

    again = stack.call("DELETE", "/blocks/agent/support-bot")
    assert (again.status, again.json["error"]) == (409, "not_blocked")
    for path, says in {
        "agent/support-bot": "Agent 'support-bot' is not blocked.",
        "client_id/countersign-cli": "The client 'countersign-cli' is not blocked.",
        "sub/usr_olga": "The person 'usr_olga' is not blocked.",
    }.items():
        assert stack.call("DELETE", f"/blocks/{path}").json["error_description"] == says
    for path in ("agent/never", "sub/usr_never", "sid/ses_never"):
        assert stack.call("DELETE", f"/blocks/{path}").status == 404


@pytest.mark.requirement("C57")
def test_restore_of_a_misspelt_name_says_which_blocked_one_was_meant(stack: AdminStack) -> None:
    stack.call("POST", "/blocks", body=KILL)
    stack.call("POST", "/blocks", body={"kind": "sid", "id": "ses_12345", "reason": "r"})

    def answered(path: str) -> str:
        return str(stack.call("DELETE", f"/blocks/{path}").json["error_description"])

    meant = "Nothing is blocked under that name; did you mean 'support-bot'?"
    assert answered("agent/suport-bot") == meant
    assert answered("agent/other") == "Nothing is blocked under that name."
    assert answered("client_id/suport-bot") == "Nothing is blocked under that name."
    assert answered("sid/ses_12346") == "Nothing is blocked under that name."


@pytest.mark.requirement("C57")
def test_kill_of_an_id_with_slashes_can_be_restored(stack: AdminStack) -> None:
    stack.call("POST", "/blocks", body={"kind": "sub", "id": "agent:x/y z", "reason": "r"})

    answer = stack.call("DELETE", "/blocks/sub/agent:x/y%20z", who="usr_olga")

    assert (answer.status, answer.json["id"]) == (200, "agent:x/y z")


@pytest.mark.requirement("C57")
def test_kill_of_an_undeclared_agent_works_and_says_so(stack: AdminStack) -> None:
    unknown = stack.call("POST", "/blocks", body={**KILL, "id": "suport-bot"})
    session = stack.call("POST", "/blocks", body={**KILL, "kind": "sid", "id": "ses_1"})

    assert (unknown.status, unknown.json["is_known"]) == (200, False)
    assert session.json["is_known"] is None


@pytest.mark.requirement("admin-errors")
@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({**KILL, "kind": "claims"}, "kind"),
        ({**KILL, "kind": "everything"}, "kind"),
        ({**KILL, "id": ""}, "id"),
        ({**KILL, "reason": ""}, "reason"),
        ({**KILL, "reason": "x" * 1_025}, "reason"),
        ({"kind": "agent", "id": "x"}, "reason"),
        ({**KILL, "extra": 1}, "extra"),
    ],
)
def test_kill_with_a_wrong_field_is_refused_and_names_it(
    stack: AdminStack, body: dict[str, object], field: str
) -> None:
    answer = stack.call("POST", "/blocks", body=body)

    assert answer.status == 400
    assert [each["field"] for each in answer.json["problems"]] == [field]
    assert stack.parts.live.blocks.sequence == 0


@pytest.mark.requirement("C57")
def test_acks_show_every_live_worker_and_when_it_applied(stack: AdminStack) -> None:
    confirm(stack, "gateway.demo.a", 0, 0)
    confirm(stack, "gateway.demo.b", 0, 0)
    sequence = stack.call("POST", "/blocks", body=KILL).json["sequence"]
    confirm(stack, "gateway.demo.a", sequence, 41)

    first = stack.call("GET", f"/blocks/acks/{sequence}", who="usr_vera").json["acks"]
    confirm(stack, "gateway.demo.b", sequence, 70)
    second = stack.call("GET", f"/blocks/acks/{sequence}").json["acks"]

    assert [(each["worker"], each["applied_at_ms"]) for each in first] == [
        ("gateway.demo.a", NOW * 1000 + 41),
        ("gateway.demo.b", None),
    ]
    assert [each["applied_at_ms"] for each in second] == [NOW * 1000 + 41, NOW * 1000 + 70]


@pytest.mark.requirement("C57")
def test_acks_do_not_wait_for_workers_that_ended_or_went_silent(stack: AdminStack) -> None:
    for worker in ("ended", "silent", "alive", "unreported"):
        confirm(stack, f"gateway.demo.{worker}", 0, 0)
    report(stack, "gateway.demo.ended", ended=True)
    report(stack, "gateway.demo.silent")
    stack.clock.advance(30)
    report(stack, "gateway.demo.alive")
    now = stack.call("GET", "/blocks/acks/1").json["acks"]
    stack.clock.advance(60)
    stack.run(stack.parts.audit_store.ingest("gateway.demo.alive", 1, []))
    later = stack.call("GET", "/blocks/acks/1").json["acks"]

    assert [each["worker"] for each in now] == ["gateway.demo.alive", "gateway.demo.unreported"]
    assert [each["worker"] for each in later] == ["gateway.demo.alive"]


@pytest.mark.requirement("C57")
def test_acks_of_one_gateway_do_not_stand_for_a_worker_of_another(stack: AdminStack) -> None:
    confirm(stack, "same-name", 0, 0)
    other = Ack("other", "same-name", 1, 1, NOW * 1000, NOW * 1000)
    stack.run(stack.parts.acks.record_ack(other))

    acks = stack.call("GET", "/blocks/acks/1").json["acks"]

    assert [(each["gateway"], each["applied_at_ms"]) for each in acks] == [
        ("demo", None),
        ("other", NOW * 1000),
    ]


@pytest.mark.requirement("admin-errors")
@pytest.mark.parametrize("sequence", ["x", "-1", "1.5", "9" * 30, "²"])
def test_acks_of_no_number_are_refused(stack: AdminStack, sequence: str) -> None:
    assert stack.call("GET", f"/blocks/acks/{sequence}").status == 400


@pytest.mark.requirement("C57")
def test_kills_in_parallel_get_sequences_of_their_own(stack: AdminStack) -> None:
    async def many() -> list[int]:
        bodies = [{**KILL, "id": f"agent-{number}"} for number in range(20)]
        answers = await asyncio.gather(
            *(stack.acall("POST", "/blocks", body=body) for body in bodies)
        )
        return [answer.json["sequence"] for answer in answers]

    assert sorted(stack.run(many())) == list(range(1, 21))
