"""Documents, specs and settings: shape, and problems one can act on."""

import pytest

from registry.declared import DeclaredSet, Problem, parse_document
from registry.objects import DeclaredObject
from tests.registry.samples import SETTINGS_MODELS, Registry, declare, replaced, small_set


def problems_of(kind: str, **spec: object) -> tuple[Problem, ...]:
    return DeclaredSet.of({(kind, "it"): dict(spec)}, SETTINGS_MODELS)[1]


@pytest.mark.requirement("trap-problem-names-field")
def test_document_of_a_known_kind_is_parsed() -> None:
    document = {"kind": "TrustProvider", "name": "unix", "spec": {"type": "unix_process"}}
    assert parse_document(document) == DeclaredObject.model_validate(document)


@pytest.mark.requirement("trap-problem-names-field")
@pytest.mark.parametrize(
    ("document", "field", "message"),
    [
        ({"kind": "Agnet", "name": "a", "spec": {}}, "kind", "did you mean 'Agent'?"),
        ({"kind": "Agent", "name": "Bad Name", "spec": {}}, "name", "lower-case"),
        ({"kind": "Agent", "name": "a"}, "spec", "required"),
        ({"kind": "Agent", "name": "a", "spec": {}, "metadata": {}}, "metadata", "unknown field"),
        ({"kind": "Agent", "name": "a", "spec": []}, "spec", "must be fields"),
        ("just text", "", "must be fields"),
        (None, "", "must be fields"),
        ([1], "", "must be fields"),
        ({"kind": 5, "name": None, "spec": {}}, "kind", "unknown kind"),
    ],
)
def test_document_of_the_wrong_shape_names_the_field(
    document: object, field: str, message: str
) -> None:
    problems = parse_document(document)
    assert isinstance(problems, tuple)
    assert problems[0].field == field
    assert message in problems[0].message


def test_unknown_field_suggests_the_right_one() -> None:
    (problem,) = DeclaredSet.of(
        {("Agent", "a"): small_set()[-1].spec | {"tool": ["crm/x"]}}, SETTINGS_MODELS
    )[1]
    assert problem.field == "spec.tool"
    assert problem.message == "unknown field; did you mean 'tools'?"


def test_unknown_type_names_the_known_ones() -> None:
    (problem,) = problems_of("CredentialProvider", type="oauth")
    assert problem.field == "spec.type"
    assert problem.message == "unknown type 'oauth'; known: issued_token, static_secret"


def test_wrong_setting_of_a_type_names_its_field() -> None:
    (missing,) = problems_of("CredentialProvider", type="static_secret")
    assert (missing.field, missing.message) == ("spec.secret", "is required")
    (unknown,) = problems_of("CredentialProvider", type="static_secret", secret="a", haeder="b")
    assert unknown.message == "unknown field; did you mean 'header'?"


@pytest.mark.requirement("trap-problem-names-field")
def test_problem_never_repeats_the_value_given() -> None:
    pasted = "hunter2-the-secret-itself"
    found = problems_of("CredentialProvider", type="static_secret", secret=[pasted])
    found += problems_of("McpServer", url=pasted, credential={"provider": pasted * 9})
    found += problems_of("TrustProvider", type="unix_process", socket={"password": pasted})
    assert len(found) == 4
    assert all(pasted not in each.message for each in found)


@pytest.mark.parametrize(
    "url",
    [
        "stdio:git",
        "stdio://",
        "stdio://Git",
        "stdio://git/x",
        "stdio://git?x=1",
        "stdio://git#x",
        "stdio://../git",
        "stdio:///usr/bin/git",
        "stdio://a b",
        "file:///usr/bin/git",
        "ssh://git.example.com/",
    ],
)
def test_server_url_names_a_server_and_never_a_command(url: str) -> None:
    (problem,) = problems_of("McpServer", url=url, credential={"provider": "crm-token"})
    assert problem.field == "spec.url"


def test_valid_settings_carry_their_defaults() -> None:
    declared, problems = DeclaredSet.of(
        {("CredentialProvider", "notes"): {"type": "static_secret", "secret": "notes-key"}},
        SETTINGS_MODELS,
    )
    assert problems == ()
    settings = declared.objects["CredentialProvider", "notes"].settings
    assert settings == {"secret": "notes-key", "header": "Authorization"}


def test_nested_field_path_has_the_index(registry: Registry) -> None:
    objects = replaced(small_set(), "Agent", "support-bot", tools=["crm/get_*", "no slash"])
    (problem,) = registry.plan(*objects).problems
    assert problem.field == "spec.tools[1]"


def test_number_that_only_looks_equal_is_a_change(registry: Registry) -> None:
    registry.apply(*replaced(small_set(), "McpServer", "crm", timeout_seconds=1))
    plan = registry.plan(*replaced(small_set(), "McpServer", "crm", timeout_seconds=1.0))
    assert len(plan.effective) == 1


def test_declared_helper_objects_are_valid() -> None:
    assert declare("IdentityProvider", "local", type="local_accounts").name == "local"
