"""`account` and `gateway` commands that change who may come in: what they send and say."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from countersign.admin_client import AdminError
from countersign.cli.main import app
from tests.countersign.admin_api import asked_by_commands

PASSWORD = "wander-copper-lantern-52"
KEY = "-kK0mS1p5DtnpLr9Zb2DkG3c9mVwz8oQJ4nYhXoP0aA"  # thumbprints may begin with a dash
AT = "2026-01-31T08:00:00Z"


class Admin:
    """Keeps what was asked, and answers with the account as it would be."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Any]] = []

    def call(self, method: str, path: str, *, json: Any = None) -> Any:
        self.asked.append((method, path, json))
        if path == "/gateways":
            return {
                "gateways": [{"name": "main", "keys": [{"thumbprint": KEY, "enrolled_at": AT}]}]
            }
        if path == "/accounts":
            bob = {"username": "bob", "groups": ["staff"], "disabled": True}
            return {"accounts": [bob | {"identity_provider": "local"}]}
        return {"groups": (json or {}).get("groups", [])}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Admin:
    return asked_by_commands(Admin(), monkeypatch)


def typed(*arguments: str, stdin: str = "") -> Result:
    return CliRunner().invoke(app, arguments, input=stdin)


@pytest.mark.requirement("admin-account-changes")
def test_password_is_piped_in_and_never_printed(server: Admin) -> None:
    done = typed("account", "set-password", "bob@example.com", stdin=f"{PASSWORD}\n")
    assert done.exit_code == 0, done.output
    assert server.asked == [("PATCH", "/accounts/local/bob%40example.com", {"password": PASSWORD})]
    assert PASSWORD not in done.output
    assert "bob@example.com has another password" in done.output


def test_password_is_read_from_a_file(server: Admin, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(f"{PASSWORD}\n")
    done = typed("account", "set-password", "bob", "--password-file", str(file))
    assert done.exit_code == 0, done.output
    assert server.asked[0][2] == {"password": PASSWORD}


def test_password_is_no_argument(server: Admin) -> None:
    done = typed("account", "set-password", "bob", PASSWORD)
    assert done.exit_code == 2
    assert server.asked == []


@pytest.mark.parametrize(
    ("options", "groups", "says"),
    [
        (("--group", "staff", "--group", "support"), ["staff", "support"], "in staff, support."),
        (("--none",), [], "in no group."),
    ],
)
def test_groups_are_set_to_exactly_those(
    server: Admin, options: tuple[str, ...], groups: list[str], says: str
) -> None:
    done = typed("account", "set-groups", "bob", "--provider", "partners", *options)
    assert done.exit_code == 0, done.output
    assert server.asked == [("PATCH", "/accounts/partners/bob", {"groups": groups})]
    assert says in done.output


@pytest.mark.parametrize("options", [(), ("--none", "--group", "staff")])
def test_groups_that_are_not_said_are_not_taken(server: Admin, options: tuple[str, ...]) -> None:
    done = typed("account", "set-groups", "bob", *options)
    assert done.exit_code == 2
    assert server.asked == []


@pytest.mark.parametrize(("command", "disabled"), [("disable", True), ("enable", False)])
def test_account_is_disabled_and_enabled(server: Admin, command: str, disabled: bool) -> None:
    assert typed("account", command, "bob").exit_code == 0
    assert server.asked == [("PATCH", "/accounts/local/bob", {"disabled": disabled})]


@pytest.mark.usefixtures("server")
def test_accounts_are_listed_with_their_provider() -> None:
    words = typed("account", "list").output.split()
    assert words[-4:] == ["bob", "local", "staff", "yes"]


@pytest.mark.requirement("admin-gateways")
def test_gateway_key_is_shown_and_taken_back(server: Admin) -> None:
    assert KEY in typed("gateway", "keys", "main").output
    done = typed("gateway", "remove-key", "main", "--key", KEY)
    assert done.exit_code == 0, done.output
    assert server.asked[-1] == ("DELETE", f"/gateways/main/keys/{KEY}", None)


@pytest.mark.usefixtures("server")
def test_keys_of_a_misspelt_gateway_are_not_none() -> None:
    done = typed("gateway", "keys", "mian")
    assert isinstance(done.exception, AdminError)
    assert "did you mean 'main'" in done.exception.description
