import pytest

from policies.compile import ServerCatalogue
from policies.problems import PolicyProblem
from tests.policies.story import CRM, KNOWN, SERVERS, compiled, refused

HAS_USER = "context.run has user"


def policy(scope: str = "principal, action, resource", condition: str = "true") -> str:
    return f'@id("a") forbid ({scope}) when {{ {condition} }};'


@pytest.mark.parametrize(
    ("scope", "message"),
    [
        ('principal == Agent::"suport-bot", action, resource',
            "unknown agent 'suport-bot'; did you mean 'support-bot'?"),
        ('principal in AgentGroup::"suport-agents", action, resource',
            "unknown agent group 'suport-agents'; did you mean 'support-agents'?"),
        ('principal, action, resource in McpServer::"cmr"',
            "unknown server 'cmr'; did you mean 'crm'?"),
        ('principal, action, resource == Tool::"cmr/refund"',
            "unknown server 'cmr'; did you mean 'crm'?"),
        ('principal, action == Action::"cmr/refund", resource',
            "unknown server 'cmr'; did you mean 'crm'?"),
        ('principal, action in Action::"call_wriet", resource',
            "unknown action 'call_wriet'; did you mean 'call_write'?"),
        ('principal, action, resource == Tool::"call_write"', "unknown tool 'call_write'"),
        ('principal, action, resource == CredentialProvider::"crm-tokn"',
            "unknown credential provider 'crm-tokn'; did you mean 'crm-token'?"),
        ('principal, action, resource == ToolArgs::"this"',
            "ToolArgs exists once in each request and cannot be named"),
    ],
)  # fmt: skip
def test_name_that_does_not_exist_is_refused(scope: str, message: str) -> None:
    found = refused(policy(scope), known=KNOWN)
    assert (found.problems[0].message, found.waiting_for) == (message, ())


@pytest.mark.parametrize(
    "scope",
    [
        'principal == Agent::"support-bot", action, resource',
        'principal in AgentGroup::"support-agents", action, resource',
        'principal, action, resource in McpServer::"crm"',
        'principal, action, resource == Tool::"crm/refund"',
        'principal, action == Action::"crm/refund", resource',
        'principal, action in Action::"call_write", resource',
        'principal, action, resource == CredentialProvider::"crm-token"',
    ],
)
def test_name_that_exists_is_accepted(scope: str) -> None:
    compiled(policy(scope), known=KNOWN)


@pytest.mark.parametrize(
    "scope",
    [
        'principal == Agent::"anyone", action, resource',
        'principal in AgentGroup::"anything", action, resource',
    ],
)
def test_names_of_a_kind_the_caller_does_not_know_are_not_checked(scope: str) -> None:
    compiled(policy(scope))


def test_provider_is_not_checked_where_no_server_names_one() -> None:
    server = ServerCatalogue("crm", (), CRM.tools)
    scope = 'principal, action, resource == CredentialProvider::"anything"'
    compiled(policy(scope), servers=(server,))


def test_line_of_a_name_is_where_it_stands_with_its_type() -> None:
    text = policy('principal == Agent::"cmr",\naction,\nresource in McpServer::"cmr"')
    assert [each.line for each in refused(text).problems] == [3]


def test_names_in_conditions_are_checked_on_their_line() -> None:
    text = policy(condition='true &&\n// Group::"lcal/x"\ncontext.run.user in Group::"lcal/x"')
    problem = refused(text, known=KNOWN).problems[0]
    assert (problem.message, problem.line) == (
        "unknown identity provider 'lcal'; did you mean 'local'?",
        3,
    )


@pytest.mark.parametrize("group", ["support", "support/"])
def test_group_without_its_identity_provider_is_refused(group: str) -> None:
    text = policy(condition=f'{HAS_USER} && context.run.user in Group::"{group}"')
    assert refused(text, known=KNOWN).problems[0].message == (
        f"group {group!r} does not name its identity provider; did you mean {'local/' + group!r}?"
    )


def test_group_of_a_known_identity_provider_is_accepted() -> None:
    text = policy(condition=f'{HAS_USER} && context.run.user in Group::"local/a/b"')
    compiled(text.replace("resource)", 'resource in McpServer::"crm")'), known=KNOWN)


def test_group_of_any_identity_provider_is_accepted_when_none_are_known() -> None:
    text = policy(condition=f'{HAS_USER} && context.run.user in Group::"okta/a"')
    compiled(text.replace("resource)", 'resource in McpServer::"crm")'))


def test_person_is_named_by_an_opaque_id_that_is_not_checked() -> None:
    text = policy(condition=f'{HAS_USER} && context.run.user == User::"usr_1"')
    compiled(text, known=KNOWN)


@pytest.mark.parametrize(
    "condition",
    ['User::"u" in Group::"local/g"', "{x: 1}.x == 1", 'Agent::"support-bot".level == 1'],
)
def test_condition_too_indirect_to_follow_is_refused(condition: str) -> None:
    messages = [each.message for each in refused(policy(condition=condition)).problems]
    assert (
        "too indirect to be judged: attributes, tags, 'has' and 'in' must be on principal, "
        "action, resource or context, or on an attribute of one of them"
    ) in messages


def test_grant_that_reads_what_the_agent_declares_is_refused() -> None:
    condition = '\ncontext.run.declared.hasTag("task")'
    text = policy(condition=condition)
    compiled(text)
    (problem,) = refused(text.replace("forbid", "permit")).problems
    assert problem == PolicyProblem(
        "document-0",
        "a",
        2,
        "a grant may not read context.run.declared, which is only what the agent says of itself; "
        "a guard may",
    )


@pytest.mark.parametrize(
    "condition",
    [
        "context.run.declared.hasTag(principal.method)",
        'context.run.declared.hasTag("a") && context.run.declared.getTag("a") == "b"',
        "context.run.declared == context.run.declared",
    ],
)
def test_grant_may_not_read_declared_in_any_form(condition: str) -> None:
    text = policy(condition=condition).replace("forbid", "permit")
    assert "a grant may not read context.run.declared" in refused(text).problems[0].message


ATTRIBUTES = {
    "groups": f'{HAS_USER} && context.run.user in Group::"local/g"',
    "acr": f"{HAS_USER} && context.run.user has acr",
    "auth_time": f"{HAS_USER} && context.run.user has auth_time",
    "purpose": "context.run has purpose",
    "ticket": 'context.run has ticket && context.run.ticket like "T-*"',
}


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_policy_that_reads_a_person_attribute_its_server_does_not_declare_is_refused(
    attribute: str,
) -> None:
    declares = tuple(each for each in ATTRIBUTES if each != attribute)
    servers = (ServerCatalogue("crm", declares, CRM.tools),)
    (problem,) = refused(policy(condition="\n" + ATTRIBUTES[attribute]), servers=servers).problems
    assert problem == PolicyProblem(
        "document-0",
        "a",
        2,
        f"reads the person's {attribute}, which server 'crm' does not declare in "
        "person_attributes; declare it there, or name other servers in the scope",
    )


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_policy_that_reads_a_declared_person_attribute_is_accepted(attribute: str) -> None:
    servers = (ServerCatalogue("crm", (attribute,), CRM.tools),)
    compiled(policy(condition=ATTRIBUTES[attribute]), servers=servers)


def test_whether_there_is_a_person_at_all_needs_no_declaration() -> None:
    servers = (ServerCatalogue("crm", (), CRM.tools),)
    compiled(policy(condition=HAS_USER), servers=servers)


@pytest.mark.parametrize(
    ("scope", "applies_to_notes"),
    [
        ("principal, action, resource", True),
        ("principal, action, resource is Tool", True),
        ('principal, action in Action::"call_tool", resource', True),
        ('principal, action == Action::"notes/search", resource', True),
        ('principal, action in [Action::"crm/refund", Action::"notes/search"], resource', True),
        ('principal, action in [Action::"crm/refund", Action::"call_read"], resource', True),
        ('principal, action == Action::"issue_credential", resource', True),
        ('principal, action, resource in McpServer::"notes"', True),
        ('principal, action, resource == Tool::"notes/search"', True),
        ('principal, action, resource == CredentialProvider::"notes-key"', True),
        ('principal, action == Action::"crm/refund", resource', False),
        ('principal, action in [Action::"crm/refund", Action::"crm/list_hours"], resource', False),
        ('principal, action, resource in McpServer::"crm"', False),
        ('principal, action, resource is Tool in McpServer::"crm"', False),
        ('principal, action, resource == Tool::"crm/refund"', False),
        ('principal, action, resource == CredentialProvider::"crm-token"', False),
        ('principal, action in Action::"use", resource in McpServer::"crm"', False),
    ],
)
def test_attribute_must_be_declared_by_every_server_the_scope_admits(
    scope: str, *, applies_to_notes: bool
) -> None:
    text = policy(scope, "context.run has ticket")  # notes does not declare it, crm does
    if applies_to_notes:
        assert "which server 'notes' does not declare" in refused(text).problems[0].message
    else:
        compiled(text)


def test_tool_with_a_slash_in_its_name_is_of_its_server() -> None:
    files = ServerCatalogue("files", ("ticket",), (("a/b", {}, False, 0),))
    condition = "context.run has ticket"
    by_action = policy('principal, action == Action::"files/a/b", resource', condition)
    by_resource = policy('principal, action, resource == Tool::"files/a/b"', condition)
    compiled(by_action, servers=(*SERVERS, files))
    compiled(by_resource, servers=(*SERVERS, files))
    bare = ServerCatalogue("files", (), files.tools)
    assert refused(by_action, servers=(*SERVERS, bare)).problems
    assert refused(by_resource, servers=(*SERVERS, bare)).problems


def test_provider_of_an_unknown_server_may_be_any_servers() -> None:
    servers = (ServerCatalogue("crm", (), CRM.tools), SERVERS[1])
    text = policy(
        'principal, action, resource == CredentialProvider::"notes-key"', ATTRIBUTES["acr"]
    )
    found = refused(text, servers=servers)
    assert ["crm" in each.message for each in found.problems] == [True, False]
