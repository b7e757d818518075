"""`--output` is taken before and after the command."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest
import yaml

from countersign.cli.context import CommandContext
from countersign.cli.main import PROCESSES, app
from countersign.cli.output_option import with_output_everywhere

OBJECT = {"kind": "Policy", "name": "one", "spec": {"cedar": "a\nb\n"}, "version": 1}


class Admin:
    def call(self, method: str, path: str) -> Any:
        assert method == "GET"
        return {"objects": [OBJECT, OBJECT]} if path == "/objects" else OBJECT


@contextmanager
def admin(_context: CommandContext) -> Generator[Admin, None, None]:
    yield Admin()


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    command = with_output_everywhere(app, without=PROCESSES)
    command(list(arguments), standalone_mode=False)
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [("-o", "yaml", "get"), ("get", "-o", "yaml"), ("get", "--output", "yaml")],
)
def test_output_is_taken_before_and_after_the_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setattr(CommandContext, "admin", admin)
    shown = {name: OBJECT[name] for name in ("kind", "name", "spec")}
    assert list(yaml.safe_load_all(printed(capsys, *arguments))) == [shown, shown]


def test_the_later_output_wins(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CommandContext, "admin", admin)
    found = json.loads(printed(capsys, "-o", "yaml", "get", "Policy", "one", "-o", "json"))
    assert found == OBJECT
