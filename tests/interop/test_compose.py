"""`compose/` as far as it can be tried without a container engine.

The file is read by the library of Docker Compose and linted, the build commands of the Dockerfile
are run, and the guide is played with the services as plain processes (`compose_engine`).
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compose.prepare import State, prepare
from compose.services import keycloak
from tests.compose_files import COMPOSE, services
from tests.services import compose_tools, image_build, nginx, postgresql, valkey
from tests.services.common import run, service

pytestmark = [pytest.mark.processes, pytest.mark.timeout(900)]

ROOT = COMPOSE.parent
IS_ROOT = os.getuid() == 0


def prepared(directory: Path) -> Path:
    """A copy of what an operator has, with its state; the folder of compose.yaml."""
    folder = directory / "compose"
    for name in ("front", "objects"):
        shutil.copytree(COMPOSE / name, folder / name)
    shutil.copy(COMPOSE / "compose.yaml", folder)
    owner = 10001 if IS_ROOT else os.getuid()
    prepare(State(folder / "state", owner, 10001 if IS_ROOT else os.getgid()))
    return folder


def project(folder: Path) -> dict[str, Any]:
    """The project, as `docker compose` reads it."""
    with service("compose-go"):
        reader = compose_tools.reader()
    return dict(json.loads(run([reader, "compose.yaml"], cwd=folder)))


def test_compose_file_is_one_to_docker_compose(tmp_path: Path) -> None:
    read = project(prepared(tmp_path))
    assert set(read["services"]) == set(services())
    for each in read["secrets"].values():
        assert Path(each["file"]).is_file()
    assert read["services"]["gateway-two"]["networks"].keys() == {"core", "memory", "targets"}


def test_linters_find_nothing_but_what_was_decided() -> None:
    with service("hadolint, compose-lint"):
        hadolint, lint = (compose_tools.linter(name) for name in ("hadolint", "compose-lint"))
    # DL3059: one RUN after another, because each is a list of words and needs no shell.
    run([hadolint, "--ignore", "DL3059", COMPOSE / "Dockerfile"])
    done = subprocess.run(  # noqa: S603 - our own words
        [lint, "--format", "json", COMPOSE / "compose.yaml"], check=False, capture_output=True
    )
    found = {(each["service"], each["rule_id"]) for each in json.loads(done.stdout)["findings"]}
    # CL-0019: pinned by tag, digests are the operator's. CL-0008: the agent is for the person's own
    # machine, whose loopback their browser comes back to.
    assert {rule for _, rule in found} <= {"CL-0008", "CL-0019"}
    assert {name for name, rule in found if rule == "CL-0008"} == {"agent"}


@pytest.mark.slow
def test_build_commands_of_the_image_make_a_command_that_runs(tmp_path: Path) -> None:
    """Installed with nothing but what is locked and the wheel of this tree."""
    clean = {"PYTHONPATH": "", "PYTHONSAFEPATH": "1"}
    with image_build.built() as root:
        countersign = root / "opt" / "countersign" / "bin" / "countersign"
        assert "mcp-gateway" in run([countersign, "--help"], cwd=tmp_path, environment=clean)
        python = countersign.with_name("python")
        for module in ("pip", "mcp", "tests", "compose"):
            looked = (
                f"import importlib.util as u, sys; sys.exit(u.find_spec({module!r}) is not None)"
            )
            run([python, "-c", looked], cwd=tmp_path, environment=clean)


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that the services can reach as users of their own; pytest's are closed to them."""
    with tempfile.TemporaryDirectory(prefix="countersign-compose-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.slow
@pytest.mark.requirement("compose-guide")
@pytest.mark.skipif(not IS_ROOT, reason="makes namespaces and runs each service as its own user")
def test_guide_leads_from_nothing_to_a_call_through_either_gateway(public: Path) -> None:
    with service("Keycloak, PostgreSQL, Valkey or nginx"):
        for each in (keycloak, postgresql, valkey, nginx):
            each.install()
    folder = prepared(public)
    read, work = public / "project.json", public / "run"
    read.write_text(json.dumps(project(folder)))
    work.mkdir()
    done = subprocess.run(  # noqa: S603 - our own words
        [
            *("unshare", "--mount", "--net", "--kill-child", sys.executable),
            *("-m", "tests.interop.compose_rehearsal", str(read), str(work)),
        ],
        cwd=ROOT,
        env=dict(os.environ) | {"PYTHONPATH": str(ROOT)},  # noqa: TID251 - a child's environment
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "rehearsed"
