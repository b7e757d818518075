"""What no linter sees: fresh interpreters, empty `__init__` files, settings that are read."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from countersign.settings import ClientSettings, ServeSettings, StdioHostSettings

ROOT = Path(__file__).parent.parent
PACKAGES = (
    "admin_console",
    "audit_log",
    "authz_server",
    "countersign",
    "credential_providers",
    "database",
    "idp_connectors",
    "listeners",
    "mcp_gateway",
    "outbound",
    "policies",
    "registry",
    "token_exchange",
)
DATABASE_LIBRARIES = ("sqlalchemy", "sqlmodel", "sqlite3", "alembic", "database", "psycopg")


def run_fresh(code: str) -> str:
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_gateway_app_in_a_fresh_interpreter_loads_no_database_module() -> None:
    """A parent `__init__` escapes import-linter; `sys.modules` does not."""
    loaded = run_fresh("import sys, mcp_gateway.app; print(' '.join(sys.modules))").split()
    assert "mcp_gateway.pipeline" in loaded
    assert not [name for name in loaded if name.split(".")[0] in DATABASE_LIBRARIES]


def test_agent_run_in_a_fresh_interpreter_loads_no_database_and_no_server() -> None:
    """Agents run it where nothing of ours is but this command."""
    code = "import sys, countersign.cli.main, countersign.agent_run.run"
    loaded = run_fresh(f"{code}; print(' '.join(sys.modules))").split()
    assert {"countersign.cli.main", "countersign.agent_run.run"} <= set(loaded)
    servers = (*DATABASE_LIBRARIES, "authz_server", "mcp_gateway", "cedarpy", "spiffe", "grpc")
    assert not [name for name in loaded if name.split(".")[0] in servers]


@pytest.mark.parametrize("process", ["authz_process", "gateway_process"])
def test_process_loads_what_a_declaration_or_a_setting_needs_only_where_it_is(process: str) -> None:
    """Who has no Keycloak realm, no PostgreSQL and no Valkey does not wait for their libraries."""
    code = f"import sys, countersign.{process}; print(' '.join(sys.modules))"
    loaded = run_fresh(code).split()
    assert f"countersign.{process}" in loaded
    heavy = ("keycloak", "requests", "psycopg", "spiffe", "grpc", "valkey")
    assert not [name for name in loaded if name.split(".")[0] in heavy]


def test_installed_command_loads_out_of_the_collectors_way() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, function = scripts["countersign"].partition(":")
    said = run_fresh(
        f"import gc, {module}; print({module}.{function}.__module__, gc.isenabled(),"
        " gc.get_freeze_count() > 0)"
    )
    assert said.split() == ["countersign.cli.main", "True", "True"]


@pytest.mark.parametrize("package", ["token_exchange", "policies"])
def test_pure_package_calls_no_clock_file_environment_or_log(package: str) -> None:
    source = "\n".join(path.read_text() for path in (ROOT / package).rglob("*.py"))
    called = {
        node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name)
    }
    assert not called & {"open", "connect", "time", "now", "getenv", "getLogger", "Thread"}


@pytest.mark.parametrize("package", PACKAGES)
def test_package_init_files_are_empty(package: str) -> None:
    filled = [path for path in (ROOT / package).rglob("__init__.py") if path.read_text().strip()]
    assert filled == []


def test_every_setting_is_read_somewhere() -> None:
    read = {
        node.attr
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
    }
    declared = set(ServeSettings.model_fields) | set(ClientSettings.model_fields)
    declared |= set(StdioHostSettings.model_fields)
    assert declared - read == set()


def test_no_module_is_called_utils_or_common() -> None:
    vague = {"utils.py", "common.py", "helpers.py", "misc.py", "manager.py"}
    assert [
        p for package in PACKAGES for p in (ROOT / package).rglob("*.py") if p.name in vague
    ] == []
