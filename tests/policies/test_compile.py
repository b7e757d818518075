import pytest

from policies.compile import compile_policy_set
from policies.decide import CompiledPolicySet
from policies.documents import MAXIMUM_POLICIES
from policies.problems import (
    LONGEST_COMPARED,
    MOST_COMPARED,
    CompileProblems,
    PolicyProblem,
    did_you_mean,
)
from tests.policies.story import (
    CRM,
    KNOWN,
    NOTES,
    SERVERS,
    STORY_DOCUMENT,
    Document,
    call,
    compiled,
    refused,
    story,
)

ANY = "permit (principal, action, resource);"


def test_story_compiles_with_ids_documents_and_lines() -> None:
    policies = story().policies
    assert {each.id: (each.document, each.line) for each in policies.values()} == {
        "base-issue-named-server": ("base", 3),
        "base-guard-chain-depth": ("base", 11),
        "grant-support-read": ("story", 2),
        "grant-crm-hours": ("story", 9),
        "grant-refund": ("story", 13),
        "guard-refund-limit": ("story", 23),
        "grant-notes": ("story", 27),
    }
    refund = policies["grant-refund"]
    assert (refund.ttl_seconds, refund.scopes) == (300, ("crm.refund", "crm.read"))
    assert (refund.reason, refund.remedy, refund.is_grant) == (None, None, True)
    guard = policies["guard-refund-limit"]
    assert (guard.reason, guard.is_grant) == ("Agents may not refund more than 500.", False)


def test_set_keeps_its_version() -> None:
    assert story().version == 7


def test_set_says_which_context_paths_it_reads() -> None:
    assert story().context_paths == {
        "input.amount",
        "run.chain_depth",
        "run.user",
        "run.user.groups",
        "grant.details_name_server",
    }


def test_empty_set_compiles() -> None:
    assert compiled().policies == {}


def test_text_that_cannot_be_parsed_is_refused_with_its_line_and_the_rest_is_still_checked() -> (
    None
):
    found = refused(f'@id("a") {ANY}\n@id("b") permit (principal;\n@id("a") {ANY}')
    first = found.problems[0]
    assert (first.document, first.policy, first.line) == ("document-0", "", 2)
    assert first.message.startswith("cannot be parsed: unexpected token")
    assert found.problems[1:] == (
        PolicyProblem("document-0", "a", 3, "this @id is already used in document-0, line 1"),
    )


def test_policy_without_an_id_is_refused() -> None:
    (problem,) = refused(f"\n{ANY}").problems
    message = "a policy needs an @id, which decisions and the audit name"
    assert problem == PolicyProblem("document-0", "", 2, message)


def test_two_policies_without_an_id_are_two_problems_each_told_once() -> None:
    messages = [each.message for each in refused(f"{ANY}\n{ANY}").problems]
    assert messages.count("a policy needs an @id, which decisions and the audit name") == 2


def test_id_used_twice_is_refused_across_documents() -> None:
    (problem,) = refused(f'@id("a") {ANY}', f'\n\n@id("a")\n{ANY}').problems
    message = "this @id is already used in document-0, line 1"
    assert problem == PolicyProblem("document-1", "a", 3, message)


def test_line_of_an_id_used_twice_is_that_of_its_annotation() -> None:
    (problem,) = refused(f'@id("a") {ANY}\n@ttl("9")\n@id("a")\n{ANY}').problems
    assert problem.line == 3


def test_template_is_refused() -> None:
    (problem,) = refused('@id("t") permit (principal == ?principal, action, resource);').problems
    assert problem == PolicyProblem(
        "document-0", "", 1, "templates are not supported: name the principal and the resource"
    )


def test_misspelt_annotation_is_refused_on_its_line() -> None:
    (problem,) = refused(f'@id("a")\n@tll("900")\n{ANY}').problems
    assert problem == PolicyProblem(
        "document-0", "a", 2, "unknown annotation @tll; did you mean 'ttl'?"
    )


@pytest.mark.requirement("trap-unpopulated")
@pytest.mark.parametrize(
    ("condition", "line", "message"),
    [
        ("context.input has\n amount && context.input.amuont < 5", 3, "`input.amuont` in context"),
        ('context.input has amount &&\ncontext.input.amount < "5"', 1, "expected Long but saw"),
        ("\ncontext.input.amount < 5", 3, "optional attribute `input.amount`"),
        ('\n\ncontext.run.user.acr == "pwd"', 4, "access to optional attribute"),
        ("principal.\nlevle > 1", 3, "`levle`"),
        ("true && context.facts.hosts.isEmpty()", 2, "`facts"),
    ],
)
def test_condition_that_does_not_fit_the_schema_is_refused_on_its_line(
    condition: str, line: int, message: str
) -> None:
    scope = 'principal, action == Action::"crm/refund", resource'
    problems = refused(f'@id("a") permit ({scope}) when {{\n{condition} }};').problems
    assert {(each.document, each.policy, each.line) for each in problems} == {
        ("document-0", "a", line)
    }
    assert message in problems[0].message
    assert not any(each.message.startswith("for policy") for each in problems)


def test_same_finding_for_many_actions_is_told_once_each() -> None:
    found = refused('@id("a") permit (principal, action, resource) when { principal.nope };')
    assert len(set(found.problems)) == len(found.problems)


def test_all_problems_of_all_documents_come_at_once() -> None:
    found = refused(
        f"{ANY}", f'@id("b") @tll("1") {ANY}', "permit (", f'@id("c") {ANY} nonsense',
        '@id("d") permit (principal, action, resource in McpServer::"cmr");',
        '@id("e") permit (principal, action, resource) when { principal.nope };',
    )  # fmt: skip
    assert {each.document for each in found.problems} == {f"document-{n}" for n in range(6)}


def test_policy_that_can_never_apply_is_refused() -> None:
    text = '@id("a") permit (principal is User, action == Action::"crm/refund", resource);'
    assert "unable to find an applicable action" in refused(text).problems[0].message


def test_too_many_policies_are_refused_before_they_are_judged() -> None:
    text = "".join(f'@id("p{n}") {ANY}\n' for n in range(MAXIMUM_POLICIES + 1))
    assert refused(text) == CompileProblems((PolicyProblem("", "", 1, "more than 10000 policies"),))


def test_as_many_policies_as_allowed_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policies.documents.MAXIMUM_POLICIES", 2)
    texts = [f'@id("p{n}") {ANY}' for n in range(3)]
    assert len(compiled(*texts[:2]).policies) == 2
    assert refused(*texts).problems[0].message == "more than 2 policies"


def test_schema_that_cannot_be_built_is_a_problem_not_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("policies.compile.schema_text", lambda _: "nonsense")
    assert refused().problems == (
        PolicyProblem("", "", 1, "the schema of the approved tools cannot be built"),
    )


def test_finding_that_names_no_policy_is_still_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Finding:
        def __init__(self, error: str) -> None:
            self.policy_id, self.error = "", error

    class Result:
        errors = (Finding("strange"), Finding("stranger"))

    monkeypatch.setattr("cedarpy.validate_policies", lambda *_: Result())
    assert refused().problems == (
        PolicyProblem("", "", 1, "strange"),
        PolicyProblem("", "", 1, "stranger"),
    )


def test_set_that_names_a_tool_not_approved_yet_waits_for_it() -> None:
    text = """@id("a") permit (principal, action == Action::"crm/export",
        resource == Tool::"crm/archive") when { context.input.anything };"""
    assert refused(text, known=KNOWN) == CompileProblems(
        (),
        ("crm/archive", "crm/export"),
        (
            PolicyProblem("document-0", "a", 1, "tool 'crm/export' is not approved yet"),
            PolicyProblem("document-0", "a", 2, "tool 'crm/archive' is not approved yet"),
        ),
    )


def test_set_waits_for_a_tool_with_a_slash_in_its_name() -> None:
    text = '@id("a") permit (principal, action == Action::"crm/files/get", resource);'
    assert refused(text, known=KNOWN).waiting_for == ("crm/files/get",)
    assert refused(text, known=KNOWN).problems == ()


def test_misspelt_tool_waits_and_the_hint_says_which_was_meant() -> None:
    found = refused('@id("a") permit (principal, action == Action::"crm/refnd", resource);')
    assert (found.problems, found.waiting_for) == ((), ("crm/refnd",))
    assert [each.message for each in found.hints] == [
        "tool 'crm/refnd' is not approved yet; did you mean 'crm/refund'?"
    ]


def test_set_that_waits_is_still_checked_in_its_other_policies() -> None:
    text = '@id("a") permit (principal, action == Action::"crm/later", resource);'
    wrong = '@id("b") permit (principal, action, resource) when { principal.nope };'
    found = refused(text, wrong)
    assert found.waiting_for == ("crm/later",)
    assert {each.policy for each in found.problems} == {"b"}


def test_rule_over_all_read_tools_is_valid_before_the_first_is_approved() -> None:
    text = '@id("a") permit (principal, action in Action::"call_read", resource);'
    compiled(text, servers=())


def partial(*servers: str) -> CompiledPolicySet | CompileProblems:
    """The story's set at a gateway that has only some servers."""
    have = [each for each in SERVERS if each.name in servers]
    return compile_policy_set(7, [STORY_DOCUMENT], have, partial_catalogue=True)


def test_gateway_with_some_of_the_servers_decides_for_those() -> None:
    policies = partial("notes")
    assert isinstance(policies, CompiledPolicySet)
    assert policies.decide_call(call("search", server=NOTES)).allowed
    assert policies.decide_call(call("get_account")).code == "request_invalid"


def test_gateway_with_other_servers_decides_for_those() -> None:
    policies = partial("crm")
    assert isinstance(policies, CompiledPolicySet)
    assert policies.decide_call(call("refund", {"amount": 1})).allowed
    assert not policies.decide_call(call("refund", {"amount": 900})).allowed


def test_gateway_checks_the_policies_whose_names_it_has() -> None:
    wrong = '@id("a") permit (principal, action, resource) when { principal.nope };'
    found = compile_policy_set(7, [Document("d", wrong)], [CRM], partial_catalogue=True)
    assert isinstance(found, CompileProblems)
    assert "nope" in found.problems[0].message


def test_nearest_known_name_is_offered() -> None:
    assert did_you_mean("suport", ["support", "sales"]) == "; did you mean 'support'?"
    assert did_you_mean("suport", ["x"]) == ""
    assert did_you_mean("suport", ["support", *map(str, range(MOST_COMPARED))]) == ""
    assert did_you_mean("s" * (LONGEST_COMPARED + 1), ["s" * LONGEST_COMPARED]) == ""
