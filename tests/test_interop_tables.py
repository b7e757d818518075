"""The tables of docs/eras.md say nothing that no test proves, and leave nothing unexplained."""

import ast
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.interop import client_table, eras
from tests.services import mcp_clients

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


@pytest.mark.parametrize("row", eras.ROWS, ids=lambda row: row.subject)
def test_row_of_the_era_matrix_has_tests_or_a_reason(row: eras.Row) -> None:
    assert len(row.cells) == len(eras.PAIRS)
    assert bool(row.test) != bool(row.reason)
    assert all(row.cells) if row.test else not any(row.cells)


def test_tests_of_the_era_matrix_exist_and_take_their_cells_from_it() -> None:
    named = {row.test for row in eras.ROWS if row.test}
    assert taken_from_table(eras.TEST_FILE, "in_cells") == {name: name for name in named}


def test_tests_of_the_client_table_exist_and_take_their_clients_from_it() -> None:
    named = {step.test for step in client_table.STEPS}
    assert taken_from_table(client_table.TEST_FILE, "for_clients") == {name: name for name in named}


@pytest.mark.parametrize("row", client_table.ROWS, ids=str)
def test_row_of_the_client_table_speaks_of_its_own_cells(row: client_table.ClientRow) -> None:
    steps = {step.name for step in client_table.STEPS}
    assert row.says.keys() | row.empty.keys() <= steps
    assert row.says.keys().isdisjoint(row.empty)
    assert all(reason.strip() for reason in row.empty.values())


def test_every_client_is_in_the_table_in_each_era_it_speaks() -> None:
    clients = {(row.client, row.era) for row in client_table.ROWS}
    assert len(clients) == len(client_table.ROWS)
    for client in ("Python", "TypeScript", "Inspector CLI"):
        assert {(client, client_table.MODERN), (client, client_table.LEGACY)} <= clients


def test_package_in_the_table_is_the_one_installed() -> None:
    installed = (
        f"mcp {version('mcp')}",
        mcp_clients.PYTHON_LEGACY.replace("==", " "),
        *(
            " ".join(pinned.rsplit("@", 1))
            for pinned in (
                mcp_clients.TYPESCRIPT_MODERN,
                mcp_clients.TYPESCRIPT_LEGACY,
                mcp_clients.INSPECTOR,
            )
        ),
    )
    assert {row.package for row in client_table.ROWS} == set(installed)
