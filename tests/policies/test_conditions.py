import cedarpy
import pytest

from policies.conditions import condition_text, conjuncts


def conditions(clauses: str) -> list[str]:
    parsed = cedarpy.policies_to_pst(f"permit (principal, action, resource) {clauses};")
    return [condition_text(each) for each in conjuncts(parsed.static_policies["policy0"])]


@pytest.mark.parametrize(
    ("clauses", "expected"),
    [
        ("", []),
        ("when { true }", ["true"]),
        (
            'when { context.run has user && context.run.user in Group::"local/support" }',
            ["context.run has user", 'context.run.user in Group::"local/support"'],
        ),
        (
            "when { principal.level > 1 && (resource.read_only && principal.level < 3) }",
            ["principal.level > 1", "resource.read_only", "principal.level < 3"],
        ),
        (
            "when { principal.level > 1 || resource.read_only }",
            ["(principal.level > 1) || resource.read_only"],
        ),
        (
            "unless { principal.level > 1 && resource.read_only }",
            ["unless (principal.level > 1) && resource.read_only"],
        ),
        ('when { resource.name == "(a.b) && { }" }', ['resource.name == "(a.b) && { }"']),
        (r'when { resource.name == "\"(a)" }', [r'resource.name == "\"(a)"']),
        ("when { [1].contains(principal.level) }", ["[1].contains(principal.level)"]),
        ("when { true } unless { false } when { 1 == 1 }", ["true", "unless false", "1 == 1"]),
    ],
)
def test_conditions_read_as_they_were_written(clauses: str, expected: list[str]) -> None:
    assert conditions(clauses) == expected
