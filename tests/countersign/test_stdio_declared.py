"""Which commands a stdio host takes from its operator's file, and which files it does not trust."""

import os
import pwd
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from countersign.stdio_declared import StdioDeclarationError, read_stdio_servers
from mcp_gateway.stdio_host.declared import (
    Handover,
    Limits,
    StdioServer,
    command_line,
    credential_of,
    environment_for,
)

ME = pwd.getpwuid(os.geteuid()).pw_name
TOOLS = {"setpriv": "/usr/bin/setpriv", "prlimit": "/usr/bin/prlimit"}
OWN = {"PATH": "/usr/bin", "SECRET": "host's own"}


def variables(names: Iterable[str]) -> Mapping[str, str]:
    return {name: OWN[name] for name in names if name in OWN}


def written(folder: Path, content: object, mode: int = 0o600) -> Path:
    path = folder / "stdio.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    path.chmod(mode)
    return path


def server(**changes: Any) -> dict[str, Any]:
    return {"servers": {"git": {"command": "/usr/bin/git-server", "user": ME} | changes}}


def read(folder: Path, **changes: Any) -> StdioServer:
    return read_stdio_servers(written(folder, server(**changes)), variables)["git"]


@pytest.mark.requirement("stdio-host")
def test_server_gets_what_is_listed_and_strict_defaults(tmp_path: Path) -> None:
    found = read(tmp_path, args=["-r", "/srv"], environment=["PATH", "ABSENT"])
    assert found.command == ("/usr/bin/git-server", "-r", "/srv")
    assert found.environment == {"PATH": "/usr/bin"}
    assert (found.working_directory, found.per_principal) == ("/", False)
    assert found.limits == Limits(None, None, 1024, None, 1024)
    assert (found.handover, found.keeps_stderr) == (None, False)


def test_limits_and_handover_are_as_declared(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        limits={"memory_mb": 512, "cpu_seconds": 60, "processes": 8},
        per_principal=True,
        credential={"variable": "GITHUB_TOKEN", "header": "x-api-key"},
        stderr="inherit",
    )
    assert found.limits == Limits(512, 60, 1024, 8, 1024)
    assert (found.handover, found.keeps_stderr) == (Handover("GITHUB_TOKEN", "x-api-key"), True)


@pytest.mark.requirement("stdio-host")
def test_command_is_launched_with_limits_and_without_privileges(tmp_path: Path) -> None:
    found = read(tmp_path, args=["--", "a b"], limits={"memory_mb": 512})
    line = command_line(found, TOOLS)
    assert line[0] == "/usr/bin/setpriv"
    assert {"--no-new-privs", "--pdeathsig=KILL", "--as=536870912", "--core=0"} <= set(line)
    assert line[-3:] == ("/usr/bin/git-server", "--", "a b")
    if os.geteuid() == 0:
        assert {"--reuid=0", "--regid=0", "--clear-groups"} <= set(line)


def test_credential_goes_into_its_variable_and_nowhere_else(tmp_path: Path) -> None:
    with_credential = read(
        tmp_path, per_principal=True, credential={"variable": "TOKEN"}, environment=["PATH"]
    )
    without = read(tmp_path)
    for headers, credential in (
        ({"authorization": "Bearer t0k"}, "t0k"),
        ({"authorization": "bearer  t0k"}, "t0k"),
        ({"authorization": "Basic dTpw"}, "Basic dTpw"),
        ({"authorization": "key"}, "key"),
        ({"x-api-key": "key"}, None),
        ({}, None),
    ):
        assert credential_of(with_credential, headers) == credential
        assert credential_of(without, headers) is None
    assert environment_for(with_credential, "t0k") == {"PATH": "/usr/bin", "TOKEN": "t0k"}
    assert environment_for(with_credential, None) == {"PATH": "/usr/bin"}


@pytest.mark.parametrize(
    "changes",
    [
        {"command": "git-server"},
        {"command": "/usr/bin/a\0b"},
        {"shell": True},
        {"environment": ["A=B"]},
        {"environment": {"A": "B"}},
        {"working_directory": "srv"},
        {"limits": {"open_files": 1}},
        {"limits": {"stack_mb": 1}},
        {"maximum_processes": 0},
        {"credential": {"variable": "TOKEN"}},
        {"credential": {"variable": "TO KEN"}, "per_principal": True},
        {"credential": {"variable": "TOKEN", "header": "X Api"}, "per_principal": True},
        {"call_seconds": 0},
        {"stderr": "log"},
    ],
)
def test_declaration_that_means_nothing_safe_is_refused(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(ValidationError):
        read(tmp_path, **changes)


@pytest.mark.parametrize("content", [{}, {"servers": {}}, [], "", {"servers": {"Not A Name": {}}}])
def test_file_without_servers_is_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(ValidationError):
        read_stdio_servers(written(tmp_path, content), variables)


@pytest.mark.requirement("stdio-host")
@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_file_that_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(StdioDeclarationError, match="others may write"):
        read_stdio_servers(written(tmp_path, server(), mode), variables)


def test_file_that_is_not_a_file_not_yaml_or_too_large_is_refused(tmp_path: Path) -> None:
    link = tmp_path / "link.yaml"
    link.symlink_to(written(tmp_path, server()))
    os.mkfifo(tmp_path / "pipe")
    for path, match in (
        (tmp_path / "absent.yaml", "cannot be read"),
        (link, "cannot be read"),
        (tmp_path, "must be a file"),
        (tmp_path / "pipe", "must be a file"),
    ):
        with pytest.raises(StdioDeclarationError, match=match):
            read_stdio_servers(path, variables)
    with pytest.raises(StdioDeclarationError, match="not YAML"):
        read_stdio_servers(written(tmp_path, "{"), variables)
    with pytest.raises(StdioDeclarationError, match="too large"):
        read_stdio_servers(written(tmp_path, "#" * 1_048_577), variables)


@pytest.mark.parametrize(
    ("uid", "user", "match"),
    [
        (0, None, "say which user"),
        (1000, "root", "only a host that is root"),
        (0, "nobody-of-that-name", "there is no user"),
    ],
)
def test_user_a_server_cannot_or_must_not_run_as_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uid: int, user: str | None, match: str
) -> None:
    path = written(tmp_path, server(user=user))
    facts = os.stat_result((0o100600, 0, 0, 1, uid, 0, 0, 0, 0, 0))
    monkeypatch.setattr("countersign.stdio_declared.os.geteuid", lambda: uid)
    monkeypatch.setattr("countersign.stdio_declared.os.fstat", lambda _: facts)
    with pytest.raises(StdioDeclarationError, match=match):
        read_stdio_servers(path, variables)


def test_server_without_a_user_runs_as_the_hosts_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, server(user=None))
    facts = os.stat_result((0o100600, 0, 0, 1, 1000, 0, 0, 0, 0, 0))
    monkeypatch.setattr("countersign.stdio_declared.os.geteuid", lambda: 1000)
    monkeypatch.setattr("countersign.stdio_declared.os.fstat", lambda _: facts)
    found = read_stdio_servers(path, variables)["git"]
    assert found.user is None
    assert not [word for word in command_line(found, TOOLS) if "reuid" in word]
