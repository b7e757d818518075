"""The example agent against the real processes, with a person at a browser."""

import contextlib
import hashlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from compose.demo.browser import Browser, log_in_and_allow
from compose.demo.people import PASSWORDS
from compose.demo.stack import Stack
from tests.operators import declared
from tests.stack import demo_objects

EXAMPLE = Path(__file__).parents[2] / "examples" / "agent_for_a_person.py"

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def stack(stack: Stack) -> Iterator[Stack]:
    """The demo, its agent being the example instead."""
    objects = demo_objects(stack)
    digest = hashlib.sha256(EXAMPLE.read_bytes()).hexdigest()
    for each in objects:
        if each["kind"] == "Agent":
            each["spec"]["attestation"]["match"]["unix.script_digest"] = f"sha-256:{digest}"
    with declared(stack, objects):
        yield stack


@contextlib.contextmanager
def started(stack: Stack, *more: str, program: Path = EXAMPLE) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(program), "--issuer", stack.issuer]
    command += ["--socket", str(stack.attestation_socket), "--provider", "local"]
    command += ["--client-id", "support-bot", "--endpoint", stack.endpoint("crm")]
    command += ["--tool", "get_account", "--arguments", '{"id": 17}', *more]
    with subprocess.Popen(  # noqa: S603 - our own example
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=stack.child_environment() | {"BROWSER": "/bin/true"},
    ) as agent:
        try:
            yield agent
        finally:
            agent.kill()


def asked(agent: subprocess.Popen[str]) -> str:
    """Where the agent sends the person."""
    assert agent.stdout is not None
    assert "Log in" in agent.stdout.readline()
    return agent.stdout.readline().strip()


def callback_of(url: str) -> str:
    return parse_qs(urlsplit(url).query)["redirect_uri"][0]


def test_example_agent_calls_a_tool_for_a_person_and_shows_no_secret(stack: Stack) -> None:
    with started(stack) as agent:
        url = asked(agent)
        browser = Browser(stop_at=callback_of(url))
        try:
            redirect, consent = log_in_and_allow(browser, url, "alice", PASSWORDS["alice"])
        finally:
            browser.close()
        assert consent is not None
        forged = callback_of(url) + "?code=forged&state=forged"
        assert httpx2.get(forged).status_code == 400
        assert "return to the agent" in httpx2.get(redirect).text
        output, errors = agent.communicate(timeout=30)
    assert (agent.returncode, errors) == (0, "")
    tools, answer = output.split("\n", 1)
    assert "get_account" in tools
    assert "Ada Lovelace" in answer
    assert parse_qs(urlsplit(redirect).query)["code"][0] not in output
    # A JWT begins with eyJ; the private part of a P-256 key is 43 characters of base64url.
    assert "eyJ" not in output
    assert re.search(r"[A-Za-z0-9_-]{43}", output) is None


def test_example_agent_says_that_the_person_denied(stack: Stack) -> None:
    with started(stack) as agent:
        url = asked(agent)
        browser = Browser(stop_at=callback_of(url))
        try:
            page = browser.open(url)
            assert not isinstance(page, str)
            page = browser.submit(page, {"username": "bob", "password": PASSWORDS["bob"]})
            assert not isinstance(page, str)
            redirect = browser.submit(page, {}, ("answer", "deny"))
        finally:
            browser.close()
        assert isinstance(redirect, str)
        assert httpx2.get(redirect).status_code == 200
        output, errors = agent.communicate(timeout=30)
    assert (agent.returncode, output) == (1, "")
    assert "no code: access_denied" in errors


def test_another_program_gets_no_token_though_the_person_allowed(
    stack: Stack, tmp_path: Path
) -> None:
    other = tmp_path / "other_program.py"
    other.write_bytes(EXAMPLE.read_bytes() + b"\n# not the declared program\n")
    with started(stack, program=other) as agent:
        url = asked(agent)
        browser = Browser(stop_at=callback_of(url))
        try:
            redirect, _ = log_in_and_allow(browser, url, "alice", PASSWORDS["alice"])
        finally:
            browser.close()
        assert httpx2.get(redirect).status_code == 200
        output, errors = agent.communicate(timeout=30)
    assert (agent.returncode, output) == (1, "")
    assert errors.startswith("no access_token: ")


def test_unknown_provider_is_said_before_a_person_is_troubled(stack: Stack) -> None:
    with started(stack, "--provider", "nobody") as agent:
        output, errors = agent.communicate(timeout=30)
    assert (agent.returncode, output) == (1, "")
    assert errors.startswith("no attestation: ")


def test_example_agent_says_that_nobody_answers_at_the_socket(stack: Stack) -> None:
    with started(stack, "--socket", "/nowhere/attest.sock") as agent:
        output, errors = agent.communicate(timeout=30)
    assert (agent.returncode, output) == (1, "")
    assert "/nowhere/attest.sock" in errors


def test_example_agent_says_which_server_does_not_answer(stack: Stack) -> None:
    with started(stack, "--issuer", "http://127.0.0.1:9") as agent:
        output, errors = agent.communicate(timeout=30)
    assert (agent.returncode, output) == (1, "")
    assert errors.startswith("failed at http://127.0.0.1:9/")
