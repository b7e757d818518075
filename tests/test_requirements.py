"""Every requirement id has a test, and every id a test carries is a requirement."""

import ast
from pathlib import Path

from tests.requirements import REQUIREMENTS

TESTS = Path(__file__).parent


def ids_on_tests() -> set[str]:
    """The arguments of every `@pytest.mark.requirement(...)`."""
    found: set[str] = set()
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if node.func.attr == "requirement":
                found |= {str(a.value) for a in node.args if isinstance(a, ast.Constant)}
    return found


def test_every_requirement_has_a_test() -> None:
    assert set(REQUIREMENTS) - ids_on_tests() == set()


def test_every_id_on_a_test_is_a_requirement() -> None:
    assert ids_on_tests() - set(REQUIREMENTS) == set()


def test_every_requirement_says_what_is_required() -> None:
    assert [key for key, sentence in REQUIREMENTS.items() if len(sentence) < 10] == []
