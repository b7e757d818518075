"""The tables of docs/eras.md say nothing that no test proves, and leave nothing unexplained."""

import ast
from pathlib import Path

import pytest

from tests.interop.eras import PAIRS, ROWS, TEST_FILE, Row

ROOT = Path(__file__).parent.parent


def taken_from_table(file: str, decorator: str) -> dict[str, str]:
    """The tests of a file that take their parameters from the table: name and what they ask for."""
    found: dict[str, str] = {}
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if not isinstance(node, ast.FunctionDef):
            continue
        for each in node.decorator_list:
            if isinstance(each, ast.Call) and ast.unparse(each.func) == decorator:
                found[node.name] = ast.literal_eval(each.args[0])
    return found


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.subject)
def test_row_of_the_era_matrix_has_tests_or_a_reason(row: Row) -> None:
    assert len(row.cells) == len(PAIRS)
    assert bool(row.test) != bool(row.reason)
    assert all(row.cells) if row.test else not any(row.cells)


def test_tests_of_the_era_matrix_exist_and_take_their_cells_from_it() -> None:
    named = {row.test for row in ROWS if row.test}
    assert taken_from_table(TEST_FILE, "in_cells") == {name: name for name in named}
