"""`gateway join --out`: the code is for its reader alone."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from countersign.cli.context import CommandContext
from countersign.cli.main import PROCESSES, app
from countersign.cli.output_option import with_output_everywhere


class Admin:
    def call(self, method: str, path: str) -> Any:
        assert (method, path) == ("POST", "/gateways/edge/join")
        return {"join_code": "secret-code"}


@contextmanager
def admin(_context: CommandContext) -> Generator[Admin, None, None]:
    yield Admin()


def test_join_code_is_written_for_its_owner_alone_and_not_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(CommandContext, "admin", admin)
    file = tmp_path / "edge.code"
    command = with_output_everywhere(app, without=PROCESSES)
    command(["gateway", "join", "edge", "--out", str(file)], standalone_mode=False)
    assert file.read_text() == "secret-code\n"
    assert file.stat().st_mode & 0o777 == 0o600
    assert "secret-code" not in capsys.readouterr().out
