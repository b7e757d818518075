"""`POST /explain`: every rung of the ladder, the policies with their lines, and what is missing."""

from dataclasses import replace

import pytest

from admin_console.facts import ConsentFacts, PersonFacts
from audit_log.event import EventType
from registry.policy_activation import PolicyOutcome
from tests.admin_console.stack import AdminStack, Answer, FakePeople, FakeSystem
from tests.registry.samples import declare
from tests.token_exchange.signing import NOW

ALICE = PersonFacts("usr_alice", "local", "alice", ("local/support",), "pwd", NOW)
REFUND = {
    "name": "refund",
    "inputSchema": {"type": "object", "properties": {"amount": {"type": "integer"}}},
}
POLICY = """\
@id("grant-refund")
permit (principal, action == Action::"crm/refund", resource)
when { context.run has user && context.run.user in Group::"local/support" };

@id("guard-limit") @reason("Not more than 500.")
forbid (principal, action == Action::"crm/refund", resource)
unless { context.input has amount && context.input.amount <= 500 };

@id("issue") permit (principal, action == Action::"issue_credential", resource);
"""


@pytest.fixture
def ready(stack: AdminStack, monkeypatch: pytest.MonkeyPatch) -> AdminStack:
    """Refund is approved, the policies above decide, alice has agreed."""
    monkeypatch.setattr(stack.parts.registry, "_compiler", lambda *_: _compiles())
    monkeypatch.setattr(stack.parts.catalogue, "_compiler", lambda *_: _compiles())
    objects = [
        declare("Policy", "support", cedar=POLICY),
        declare(
            "McpServer",
            "crm",
            url="http://127.0.0.1:9001/mcp",
            credential={"provider": "crm-token"},
            person_attributes=["groups"],
        ),
    ]
    body = {"objects": [each.model_dump() for each in objects]}
    assert stack.call("POST", "/objects", body=body).status == 200
    stack.run(stack.parts.catalogue.observe("crm", [REFUND, {**REFUND, "name": "get_account"}]))
    (digest,) = {each.digest for each in stack.parts.catalogue.list("crm") if each.name == "refund"}
    approved = {"tools": {"refund": digest}}
    assert stack.call("POST", "/catalogue/crm/approve", body=approved).status == 200
    people(stack).known = [ALICE]
    people(stack).agreed = [ConsentFacts("grt_1", ("refund",), NOW + 900)]
    return stack


def _compiles() -> PolicyOutcome:
    """The registry's own compiler is not what is tried here."""
    return PolicyOutcome()


def people(stack: AdminStack) -> FakePeople:
    found = stack.parts.people
    assert isinstance(found, FakePeople)
    return found


def explain(stack: AdminStack, **changes: object) -> Answer:
    body = {
        "agent": "support-bot",
        "user": "alice",
        "tool": "crm/refund",
        "arguments": {"amount": 100},
        **changes,
    }
    given = {name: value for name, value in body.items() if value is not None}
    return stack.call("POST", "/explain", who="usr_vera", body=given)


def failed(answer: Answer) -> list[str]:
    assert answer.status == 200, answer.json
    return [each["check"] for each in answer.json["checks"] if not each["passed"]]


@pytest.mark.requirement("operator-explain")
def test_explain_of_an_allowed_call_names_the_grant_and_its_line(ready: AdminStack) -> None:
    answer = explain(ready)

    assert (failed(answer), answer.json["allowed"], answer.json["changes"]) == ([], True, None)
    (policy,) = answer.json["policies"]
    assert (policy["id"], policy["document"], policy["line"]) == ("grant-refund", "support", 1)
    assert [each["check"] for each in answer.json["checks"]] == [
        "catalogue", "gateway", "ceiling", "person", "consent", "policy", "credential",
    ]  # fmt: skip


@pytest.mark.requirement("operator-explain")
def test_explain_of_a_forbidden_call_names_the_guard_and_the_smallest_change(
    ready: AdminStack,
) -> None:
    answer = explain(ready, arguments={"amount": 900})

    assert failed(answer) == ["policy"]
    (policy,) = answer.json["policies"]
    assert (policy["id"], policy["line"], policy["effect"]) == ("guard-limit", 5, "forbid")
    assert answer.json["changes"] == ["the argument amount is at most 500"]
    assert answer.json["reasons"] == ["Not more than 500."]


@pytest.mark.requirement("operator-explain")
def test_explain_sees_the_policies_with_what_the_server_may_see_of_a_person(
    ready: AdminStack,
) -> None:
    people(ready).known = [replace(ALICE, groups=("local/staff",))]

    answer = explain(ready)

    assert failed(answer) == ["person", "policy"]
    assert answer.json["changes"] == ["alice is in local/support"]
    assert answer.json["nearest"][0]["conditions"] == ['context.run.user in Group::"local/support"']
    assert failed(explain(ready, groups=["local/support"])) == []


@pytest.mark.requirement("operator-explain")
def test_explain_of_a_tool_nobody_approved_or_offers_says_which(ready: AdminStack) -> None:
    observed = explain(ready, tool="crm/get_account")
    unknown = explain(ready, tool="crm/nothing")

    assert failed(observed) == ["catalogue", "consent"]
    assert observed.json["outcome"] == "not_decided"
    assert observed.json["checks"][0]["remedy"] == "`countersign tools approve crm get_account`"
    assert "offers no tool" in unknown.json["checks"][0]["found"]
    misspelt = explain(ready, tool="crm/get_acount").json["checks"][0]["found"]
    assert misspelt == "crm offers no tool 'get_acount'; did you mean 'get_account'?"
    assert failed(unknown) == ["catalogue", "ceiling", "consent"]
    assert unknown.json["changes"] is None


@pytest.mark.requirement("operator-explain")
def test_explain_asks_no_consent_of_whom_the_agent_has_a_mandate_for(ready: AdminStack) -> None:
    spec = ready.call("GET", "/objects/Agent/support-bot").json["spec"]
    tokens = {"identity_provider": "partner", "client_ids": ["portal"]}
    acts_for = {
        "groups": [*spec["acts_for"]["groups"], "partner/support"],
        "subject_tokens": [tokens],
        "consent": "mandate",
    }
    partner = declare("IdentityProvider", "partner", type="oidc", issuer="https://idp.example.com")
    bot = {"kind": "Agent", "name": "support-bot", "spec": {**spec, "acts_for": acts_for}}
    body = {"objects": [partner.model_dump(), bot]}
    declared = ready.call("POST", "/objects", body=body)
    assert declared.status == 200, declared.json
    people(ready).agreed = []

    assert failed(explain(ready)) == ["consent"]
    people(ready).known = [replace(ALICE, identity_provider="partner", groups=("partner/support",))]
    consent = next(each for each in explain(ready).json["checks"] if each["check"] == "consent")
    assert consent["passed"]
    assert "mandate" in consent["found"]


@pytest.mark.requirement("operator-explain")
def test_explain_without_consent_says_so(ready: AdminStack) -> None:
    people(ready).agreed = [ConsentFacts("grt_1", ("get_account",), NOW + 900)]
    answer = explain(ready)
    assert failed(answer) == ["consent"]
    assert answer.json["changes"] == ["alice agrees when support-bot asks for it next"]


@pytest.mark.requirement("operator-explain")
@pytest.mark.parametrize(
    ("kind", "name", "target"),
    [
        ("agent", "support-bot", "agent/support-bot"),
        ("sub", "usr_alice", "user/alice"),
    ],
)
def test_explain_of_what_was_killed_names_the_command_that_restores_it(
    ready: AdminStack, kind: str, name: str, target: str
) -> None:
    body = {"kind": kind, "id": name, "reason": "x"}
    assert ready.call("POST", "/blocks", body=body).status == 200
    answer = explain(ready)
    assert failed(answer) == ["blocks"]
    assert answer.json["changes"] == [f"`countersign restore {target}`"]
    assert ready.call("DELETE", f"/blocks/{kind}/{name}").status == 200
    assert failed(explain(ready)) == []


@pytest.mark.requirement("operator-explain")
def test_explain_of_an_agent_alone_says_whether_it_may(ready: AdminStack) -> None:
    answer = explain(ready, user=None)
    assert failed(answer) == ["person", "policy"]
    assert answer.json["user"] is None
    spec = ready.call("GET", "/objects/Agent/support-bot").json["spec"]
    alone = {"kind": "Agent", "name": "support-bot", "spec": {**spec, "acts_alone": True}}
    assert ready.call("POST", "/objects", body={"objects": [alone]}).status == 200
    assert failed(explain(ready, user=None)) == ["policy"]


def test_explain_of_programs_that_prove_themselves_in_no_way(ready: AdminStack) -> None:
    crm = ready.call("GET", "/objects/McpServer/crm").json["spec"]
    objects = [
        declare("McpServer", "crm", **{**crm, "require_bound": False}),
        declare(
            "Agent",
            "unattested-clients",
            owner="ops@example.com",
            tools=["crm/refund"],
            acts_for={"groups": ["local/support"]},
        ),
    ]
    body = {"objects": [each.model_dump() for each in objects]}
    answer = ready.call("POST", "/objects", body=body)
    assert answer.status == 200, answer.json
    people(ready).agreed = []  # which program asks is not in the question
    explained = explain(ready, agent="unattested-clients")
    assert failed(explained) == []
    consent = next(each for each in explained.json["checks"] if each["check"] == "consent")
    assert consent["found"].startswith("assumed: ")


def test_explain_of_an_agent_for_nobody_and_a_server_nobody_serves(ready: AdminStack) -> None:
    spec = ready.call("GET", "/objects/Agent/support-bot").json["spec"]
    spec.pop("acts_for")
    agent = {"kind": "Agent", "name": "support-bot", "spec": spec}
    body = {"objects": [agent], "delete": [{"kind": "Gateway", "name": "demo"}]}
    assert ready.call("POST", "/objects", body=body).status == 200
    answer = explain(ready)
    assert failed(answer) == ["gateway", "person"]
    assert answer.json["changes"] == ["name crm in a Gateway", "declare acts_for of support-bot"]


@pytest.mark.requirement("operator-explain")
def test_explain_says_what_it_assumes(ready: AdminStack) -> None:
    people(ready).known = [replace(ALICE, sub="", groups=None)]
    assumed = explain(ready).json["assumed"]
    assert len(assumed) == 2
    assert "no session" in assumed[0]
    assert "level 1" in assumed[1]
    imagined = explain(ready, user="carol", groups=["local/support"], level=2)
    assert imagined.json["assumed"] == ["carol is not known here: somebody with the groups given"]


@pytest.mark.requirement("operator-explain")
@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        ({"agent": "suport-bot"}, 404, "did you mean 'support-bot'"),
        ({"tool": "crn/refund"}, 404, "did you mean 'crm'"),
        ({"user": "nobody"}, 404, "Nobody called 'nobody'"),
        ({"tool": "refund"}, 400, "invalid fields"),
        ({"level": 7}, 400, "invalid fields"),
        ({"at": "2026-01-31"}, 400, "invalid fields"),
        ({"at": "0001-01-01T00:00:00+14:00"}, 400, "invalid fields"),
        ({"at": "9999-12-31T23:59:59-14:00"}, 400, "invalid fields"),
    ],
)
def test_explain_of_unknown_names_is_refused_with_what_was_meant(
    ready: AdminStack, change: dict[str, object], status: int, says: str
) -> None:
    answer = explain(ready, **change)
    assert answer.status == status
    assert says in answer.json["error_description"]
    assert len(ready.events(EventType.ADMIN_REFUSED)) == 1
    assert explain(ready).status == 200


@pytest.mark.requirement("operator-explain")
def test_explain_of_a_name_of_two_people_lists_them(ready: AdminStack) -> None:
    people(ready).known = [ALICE, replace(ALICE, sub="usr_2", identity_provider="keycloak")]
    answer = explain(ready)
    assert (answer.status, answer.json["error"]) == (409, "ambiguous")
    assert [each["name"] for each in answer.json["problems"]] == ["usr_alice", "usr_2"]
    assert explain(ready, user="usr_2").status == 200


@pytest.mark.requirement("operator-explain")
def test_explain_only_asks_and_takes_a_viewer(ready: AdminStack) -> None:
    before = len(ready.events(EventType.ADMIN_ALLOWED))
    assert explain(ready).status == 200
    refused = ready.call("POST", "/explain", who="usr_nobody", body={})
    assert (refused.status, refused.json["error"]) == (403, "insufficient_role")
    assert len(ready.events(EventType.ADMIN_ALLOWED)) == before


def test_explain_when_the_policies_do_not_compile_denies(ready: AdminStack) -> None:
    system = ready.parts.system
    assert isinstance(system, FakeSystem)
    system.compiles = False
    answer = explain(ready)
    assert failed(answer) == ["policy"]
    assert (answer.json["outcome"], answer.json["changes"]) == ("not_decided", None)


def test_explain_of_a_credential_that_may_not_be_issued(ready: AdminStack) -> None:
    cedar = POLICY.replace('@id("issue") permit', '@id("issue") forbid')
    body = {"objects": [declare("Policy", "support", cedar=cedar).model_dump()]}
    assert ready.call("POST", "/objects", body=body).status == 200
    answer = explain(ready)
    assert failed(answer) == ["credential"]
    assert answer.json["allowed"] is False


@pytest.mark.requirement("operator-explain")
def test_explain_at_another_time_is_of_that_time(ready: AdminStack) -> None:
    answer = explain(ready, at="2026-01-31T09:00:00+01:00")
    assert answer.json["at"] == "2026-01-31T08:00:00Z"


@pytest.mark.requirement("operator-explain")
def test_persons_are_found_by_name_with_their_provider(ready: AdminStack) -> None:
    people(ready).known = [ALICE, PersonFacts("", "local", "bob", (), None, None)]
    found = ready.call("GET", "/persons?name=alice", who="usr_vera").json["persons"]
    new = ready.call("GET", "/persons?name=bob", who="usr_vera").json["persons"]
    alice = {"sub": "usr_alice", "identity_provider": "local", "login": "alice"}
    assert found == [{**alice, "by_shown_name": False}]
    assert new[0]["sub"] is None
    assert ready.call("GET", "/persons", who="usr_vera").status == 400
    nobody = ready.call("GET", "/persons?name=alcie", who="usr_vera").json
    assert nobody == {"persons": [], "meant": "; did you mean 'alice'?"}
    meant = explain(ready, user="alcie").json["error_description"]
    assert meant.endswith("ever logged in; did you mean 'alice'?")


@pytest.mark.requirement("operator-names")
def test_persons_are_named_many_at_once_and_strangers_left_out(ready: AdminStack) -> None:
    mallory = replace(ALICE, sub="usr_mallory", by_shown_name=True)
    people(ready).known = [ALICE, mallory]
    before = ready.events(EventType.ADMIN_ALLOWED)

    def asked(*ids: str) -> Answer:
        return ready.call("POST", "/persons/logins", who="usr_vera", body={"ids": list(ids)})

    assert asked("usr_alice", "usr_nobody", "usr_mallory").json == {
        "logins": {"usr_alice": "alice", "usr_mallory": "alice"}, "sure": ["usr_alice"],
    }  # fmt: skip
    none: dict[str, object] = {"logins": {}, "sure": []}
    assert asked(*[f"local/{number:0>500}" for number in range(1000)]).json == none
    assert asked(*["usr_alice"] * 1001).status == 400
    assert asked("").status == 400
    assert ready.events(EventType.ADMIN_ALLOWED) == before  # a question changes nothing


@pytest.mark.requirement("operator-warnings")
def test_apply_warns_of_what_matches_nothing_and_accepts_it(ready: AdminStack) -> None:
    account = {"identity_provider": "local", "username": "zoe", "groups": ["support"]}
    password = {"password": "wander-copper-lantern-52"}
    assert ready.call("POST", "/accounts", body=account | password).status == 200
    spec = ready.call("GET", "/objects/Agent/support-bot").json["spec"]
    spec["acts_for"] = {"groups": ["local/suport"]}
    objects = [
        declare("Policy", "support", cedar=POLICY.replace("amount", "ammount")).model_dump(),
        {"kind": "Agent", "name": "support-bot", "spec": spec},
    ]

    dry = ready.call("POST", "/objects?dry_run=true", body={"objects": objects})
    done = ready.call("POST", "/objects", body={"objects": objects})

    assert (dry.status, done.status) == (200, 200)
    assert dry.json["warnings"] == done.json["warnings"]
    assert [
        (each["field"], each["message"].partition(";")[2]) for each in dry.json["warnings"]
    ] == [
        ("spec.cedar:7", " did you mean 'amount'?"),
        ("spec.acts_for.groups[0]", " did you mean 'local/support'?"),
    ]
    right = {"objects": [declare("Policy", "support", cedar=POLICY).model_dump()]}
    assert ready.call("POST", "/objects", body=right).json["warnings"] == []
