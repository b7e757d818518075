"""A stdio host starts no server as somebody who could operate the authorization server."""

import os
import pwd
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from countersign import stdio_host_process, stdio_users
from countersign.settings import StdioHostSettings
from countersign.stdio_declared import StdioDeclarationError, read_stdio_servers
from countersign.stdio_host_process import run_stdio_host
from countersign.stdio_users import servers_with_an_operators_power
from mcp_gateway.stdio_host.declared import StdioServer

THEIRS, SERVERS, GROUP = 700, 800, 801


def server(folder: Path, user: tuple[int, int] | None) -> StdioServer:
    declared = folder / "stdio.yaml"
    me = {"command": "/usr/bin/git-server", "user": pwd.getpwuid(os.geteuid()).pw_name}
    declared.write_text(yaml.safe_dump({"servers": {"git": me}}))
    declared.chmod(0o600)
    (found,) = read_stdio_servers(declared, lambda _: {}).values()
    return StdioServer(**{each: getattr(found, each) for each in found.__slots__} | {"user": user})


@pytest.fixture
def settings(tmp_path: Path) -> StdioHostSettings:
    return StdioHostSettings(
        stdio_servers=tmp_path / "stdio.yaml",
        stdio_socket=tmp_path / "host" / "stdio.sock",
        run_dir=tmp_path / "run",
        data_dir=tmp_path / "data",
        keys_dir=tmp_path / "keys",
    )


def theirs(monkeypatch: pytest.MonkeyPatch, settings: StdioHostSettings, **facts: Any) -> None:
    """An authorization server of another user is here, as far as it can be seen."""
    of = {"st_uid": THEIRS, "st_gid": THEIRS, "st_mode": stat.S_IFDIR | 0o700} | facts
    places = (settings.run_dir / "admin.sock", settings.keys_dir, settings.data_dir)
    monkeypatch.setattr(
        stdio_users,
        "_seen",
        lambda asked: [(p, SimpleNamespace(**of)) for p in asked if p in places],
    )


@pytest.mark.requirement("stdio-host")
@pytest.mark.parametrize(
    ("user", "facts"),
    [
        ((THEIRS, GROUP), {}),
        ((0, 0), {}),
        ((SERVERS, GROUP), {"st_gid": GROUP, "st_mode": stat.S_IFDIR | 0o770}),
        ((SERVERS, GROUP), {"st_mode": stat.S_IFDIR | 0o777}),
    ],
)
def test_user_who_may_use_what_is_the_authorization_servers_is_found(
    tmp_path: Path,
    settings: StdioHostSettings,
    monkeypatch: pytest.MonkeyPatch,
    user: tuple[int, int],
    facts: dict[str, Any],
) -> None:
    theirs(monkeypatch, settings, **facts)
    found = servers_with_an_operators_power(settings, {"git": server(tmp_path, user)})
    assert found == {"git": settings.run_dir / "admin.sock"}


@pytest.mark.parametrize(
    "facts", [{}, {"st_mode": stat.S_IFDIR | 0o755}, {"st_gid": GROUP}, {"st_mode": 0o770}]
)
def test_user_of_a_servers_own_is_not(
    tmp_path: Path,
    settings: StdioHostSettings,
    monkeypatch: pytest.MonkeyPatch,
    facts: dict[str, Any],
) -> None:
    theirs(monkeypatch, settings, **facts)
    own = server(tmp_path, (SERVERS, GROUP))
    assert servers_with_an_operators_power(settings, {"git": own}) == {}


def test_hosts_own_user_beside_its_own_authorization_server_is_found(
    tmp_path: Path, settings: StdioHostSettings
) -> None:
    settings.data_dir.mkdir()
    found = servers_with_an_operators_power(settings, {"git": server(tmp_path, None)})
    assert found == {"git": settings.data_dir}


def test_where_there_is_no_authorization_server_nobody_is(
    tmp_path: Path, settings: StdioHostSettings
) -> None:
    settings.run_dir.mkdir()  # the host made it, for its socket
    assert servers_with_an_operators_power(settings, {"git": server(tmp_path, None)}) == {}


@pytest.mark.requirement("stdio-host")
def test_host_starts_no_operators_unless_told_to(
    tmp_path: Path, settings: StdioHostSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[StdioHostSettings] = []

    async def serve(settings: StdioHostSettings, *_: object) -> None:
        served.append(settings)

    monkeypatch.setattr(stdio_host_process, "_serve", serve)
    server(tmp_path, None)
    settings.keys_dir.mkdir()
    with pytest.raises(StdioDeclarationError, match="git: would run as a user that may use"):
        run_stdio_host(settings)
    assert served == []
    told = settings.model_copy(update={"stdio_servers_may_operate": True})
    run_stdio_host(told)
    settings.keys_dir.rmdir()
    run_stdio_host(settings)
    assert served == [told, settings]
