"""A wrong command line exits 2 whatever the world does; a refusal, or a world that is not so, 1."""

import sys
from pathlib import Path

import pytest

from countersign.cli.main import main

RUN = ("agent", "run", "--attestation-socket", "/nowhere/attest.sock")
TOKEN = ("agent", "token", "--resource", "https://x/crm/mcp", "--key-file", "key")


def ended(monkeypatch: pytest.MonkeyPatch, directory: Path, *words: str) -> int:
    monkeypatch.chdir(directory)
    monkeypatch.setenv("COUNTERSIGN_CONFIG_DIR", str(directory / "operator"))
    monkeypatch.setattr(sys, "argv", ["countersign", *words])
    with pytest.raises(SystemExit) as end:
        main()
    assert isinstance(end.value.code, int)
    return end.value.code


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((*RUN, "--alone", "--", "true"), "--server or --resource"),
        ((*RUN, "--server", "crm", "--", "true"), "--agent"),
        ((*RUN, "--alone", "--server", "a b", "--", "true"), "no endpoint of a gateway"),
        ((*RUN, "--alone", "--resource", "ftp://127.0.0.1/x/mcp", "--", "true"), "plain http"),
        ((*RUN, "--alone", "--gateway", "http://x", "--server", "crm", "--", "true"), "--gateway"),
        ((*RUN, "--alone", "--server", "crm", "--server", "crm", "--", "true"), "both be called"),
        ((*RUN, "--alone", "--server", "crm", "--proof", "token-file", "--", "true"), "needs"),
        ((*RUN, "--alone", "--server", "crm", "--proof", "workload-api", "--", "true"), "needs"),
        ((*TOKEN, "--subject-token-file", "gone"), "does not exist"),
        (("login", "--wait", "0"), "--wait"),
        (("setup", "--code-file", "gone"), "does not exist"),
        (("secret", "set", "x", "--value-file", "gone"), "does not exist"),
        (("account", "add", "x", "--password-file", "gone"), "does not exist"),
        (("apply", "-f", "gone"), "does not exist"),
        (("apply", "-f", "-"), "--yes"),
        (("diff", "-f", "gone"), "does not exist"),
        (("--ca-file", "gone", "whoami"), "No such file"),
        (("--issuer", "nonsense", "whoami"), "https URL"),
        (("kill", "x", "--reason", "y"), "KIND/NAME"),
    ],
)
def test_wrong_command_line_exits_2_and_says_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    words: tuple[str, ...],
    text: str,
) -> None:
    monkeypatch.delenv("SPIFFE_ENDPOINT_SOCKET", raising=False)
    assert ended(monkeypatch, tmp_path, *words) == 2
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert text in said


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ((*RUN, "--alone", "--server", "crm", "--", "true"), "no_proof"),
        ((*RUN, "--alone", "--server", "crm", "--token-file", "gone", "--", "true"), "no_proof"),
        (("--socket", "gone", "whoami"), "unreachable"),
        (("whoami",), "not_logged_in"),
        (("setup", "--code-file", "code"), "not_logged_in"),
    ],
)
def test_world_that_is_not_so_exits_1(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    words: tuple[str, ...],
    code: str,
) -> None:
    monkeypatch.delenv("SPIFFE_ENDPOINT_SOCKET", raising=False)
    monkeypatch.setattr("countersign.agent_run.run.hide_memory", lambda: None)  # of this process
    (tmp_path / "code").write_text("x")
    assert ended(monkeypatch, tmp_path, *words) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith(code)
