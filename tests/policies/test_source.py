import pytest

from policies.source import statements

POLICY = "permit (principal, action, resource);"


def test_document_is_cut_at_each_semicolon_with_its_line() -> None:
    found = statements(f"{POLICY}\n\n  {POLICY} {POLICY}\n")
    assert [(each.text, each.line) for each in found] == [(POLICY, 1), (POLICY, 3), (POLICY, 3)]


def test_policy_starts_at_its_first_token_not_at_the_comment_above() -> None:
    found = statements(f"// one; two\n\n// three\n{POLICY}\n// the end; really")
    assert [(each.text, each.line) for each in found] == [(POLICY, 4)]


@pytest.mark.parametrize(
    "literal", ['"a;b"', '"// no comment;"', '"\\";"', '"line\n;line"', '"\\\n;"', '"\\\\"']
)
def test_semicolon_in_a_string_ends_nothing(literal: str) -> None:
    text = f"permit (principal, action, resource) when {{ {literal} == {literal} }};"
    assert [each.text for each in statements(text + POLICY)] == [text, POLICY]


def test_policy_without_semicolon_is_kept_for_its_error() -> None:
    found = statements(f"{POLICY}\npermit (principal")
    assert [(each.text, each.line) for each in found] == [(POLICY, 1), ("permit (principal", 2)]


@pytest.mark.parametrize("text", ["", "  \n", "// only a comment"])
def test_document_without_policies_has_none(text: str) -> None:
    assert statements(text) == ()


def test_line_of_a_pattern_is_counted_in_the_document() -> None:
    (found,) = statements("\n\npermit (\n  principal,\n  action,\n  resource);")
    assert found.line_of("action") == 5
    assert found.line_of("nothing", "resource") == 6
    assert found.line_of("nothing") == 3
    assert found.line_of() == 3


def test_line_of_a_pattern_is_not_that_of_a_comment() -> None:
    (found,) = statements('permit (principal,\n// action\naction, resource\n) when { "//x" };')
    assert found.line_of(r"\baction\b") == 3
    assert found.line_of('"//x"') == 4
