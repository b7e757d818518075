"""What the command says when it cannot begin names the reason."""

import re
from pathlib import Path

import pytest

from countersign.admin_client import AdminError
from countersign.cli.context import clock
from countersign.cli.main import PROCESSES, app
from countersign.cli.output_option import with_output_everywhere
from countersign.login_file import LoginDirectory, SavedLogin

ISSUER = "http://127.0.0.1:8700"


def refused(*arguments: str) -> AdminError:
    with pytest.raises(AdminError) as found:
        with_output_everywhere(app, without=PROCESSES)(list(arguments), standalone_mode=False)
    return found.value


def test_login_that_expired_is_told_from_none(tmp_path: Path) -> None:
    arguments = ("--config-dir", str(tmp_path), "--issuer", ISSUER, "whoami")
    assert refused(*arguments).code == "not_logged_in"
    LoginDirectory(tmp_path, clock).save(SavedLogin(ISSUER, "token", 1))
    assert refused(*arguments).code == "login_expired"


def test_missing_socket_is_named(tmp_path: Path) -> None:
    error = refused("--socket", str(tmp_path / "admin.sock"), "whoami")
    assert str(tmp_path / "admin.sock") in error.description


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with_output_everywhere(app, without=PROCESSES)(["--version"], standalone_mode=False)
    assert re.fullmatch(r"countersign \d+\.\d+\.\d+\n", capsys.readouterr().out)
