"""The first section of the guide to `agent run`, typed as it stands there, beside the demo."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

import pytest
from rich.console import Console

from compose.demo.browser import Browser, log_in_and_allow
from compose.demo.preparing import prepare
from compose.demo.stack import Stack
from compose.demo.steps import Story
from compose.demo.story import PLAIN_BOT
from tests.stack import PASSWORDS, free_ports

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

ROOT: Final = Path(__file__).parents[2]
GUIDE: Final = ROOT / "docs" / "guides" / "agent-run.md"


def blocks() -> list[str]:
    """What the section says to type."""
    (section,) = re.findall(r"## Try it with the demo\n(.*?)\n## ", GUIDE.read_text(), re.DOTALL)
    return re.findall(r"```\n(.*?)\n```", section, re.DOTALL)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """What `make run` leaves up."""
    directory = tmp_path_factory.mktemp("demo")
    with Stack(directory, ports=free_ports(), object_folders=(PLAIN_BOT,)) as stack:
        prepare(Story(stack, Console(quiet=True)))
        yield stack


def typed(demo: Stack, block: str) -> "subprocess.Popen[str]":
    """A block of the guide at a prompt; ports and directory are those of this demo."""
    here = block.replace(".venv/bin/", f"{Path(sys.executable).parent}/")
    here = here.replace(".run/", f"{demo.directory}/")
    environment = demo.child_environment() | {
        "BROWSER": "/bin/true",
        "COUNTERSIGN_GATEWAY_URL": demo.base_url,
        "COUNTERSIGN_ATTESTATION_SOCKET": str(demo.attestation_socket),
    }
    return subprocess.Popen(  # noqa: S603 - our own commands
        ["/bin/sh", "-c", here],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.requirement("C7")
def test_guide_is_played_as_it_stands(demo: Stack) -> None:
    start, alone, person, audit = blocks()
    assert start == "make run"

    with typed(demo, alone) as process:
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    said = json.loads(output)
    assert said["tools"] == ["list_hours"]
    assert json.loads(said["text"])["seen"]["subject"] == "agent:plain-bot"

    with typed(demo, person) as process:
        assert process.stderr is not None
        link = next(line.strip() for line in process.stderr if line.startswith("http"))
        log_in(demo, link)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "2 of 2: notes is allowed" in errors
    said = json.loads(output)
    assert said["tools"] == ["get_account", "list_hours"]
    assert json.loads(said["text"])["seen"]["name"] == "alice"

    with typed(demo, audit) as process:
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert output.count("invocation.ended") == 3


def log_in(demo: Stack, link: str) -> None:
    """Alice, who follows the link and each page after it."""
    url = demo.http.get(link).headers["location"]
    browser = Browser(stop_at=parse_qs(urlsplit(url).query)["redirect_uri"][0])
    try:
        while url:
            redirect, _ = log_in_and_allow(browser, url, "alice", PASSWORDS["alice"])
            url = demo.http.get(redirect).headers.get("location", "")
    finally:
        browser.close()


def test_guide_names_the_password_of_the_demo() -> None:
    assert f"`alice` (`{PASSWORDS['alice']}`)" in GUIDE.read_text()
