"""`doctor` from outside: documents, clocks and certificates as clients see them, and exit codes."""

import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx2
import pytest

from admin_console.checks.finding import Finding, Level
from countersign.admin_client import AdminError
from countersign.cli.context import CommandContext
from countersign.cli.main import PROCESSES, app
from countersign.cli.output_option import with_output_everywhere
from countersign.outside_view import (
    MAXIMUM_DOCUMENT_BYTES,
    OutsideView,
    expiry_finding,
    metadata_urls,
)

ISSUER = "https://as.example.com/tenant"
BASE = "https://gw.example.com"
NOW = 1_800_000_000.0
METADATA = {"issuer": ISSUER, "jwks_uri": f"{ISSUER}/oauth/jwks"}
KEYS = {"keys": [{"kid": "k1"}, {"kid": "k2"}]}
RESOURCE = {"resource": f"{BASE}/crm/mcp", "authorization_servers": [ISSUER]}
OPENID, OAUTH = metadata_urls(ISSUER)
PROTECTED = f"{BASE}/.well-known/oauth-protected-resource/crm/mcp"
GATEWAY = {"base_url": BASE, "servers": ["crm"]}


class Site:
    """What stands at each URL: a JSON value, bytes, a status or an error."""

    def __init__(self) -> None:
        self.pages: dict[str, Any] = {
            OPENID: METADATA,
            OAUTH: METADATA,
            METADATA["jwks_uri"]: KEYS,
            PROTECTED: RESOURCE,
        }
        self.date: str | None = formatdate(NOW, usegmt=True)

    def serve(self, request: httpx2.Request) -> httpx2.Response:
        page = self.pages.get(str(request.url), 404)
        headers = {} if self.date is None else {"date": self.date}
        if isinstance(page, Exception):
            raise page
        if isinstance(page, int):
            return httpx2.Response(page, headers=headers)
        content = page if isinstance(page, bytes) else json.dumps(page).encode()
        return httpx2.Response(200, content=content, headers=headers)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Site:
    """Certificates are tried in tests/processes: a unit test opens no socket."""
    monkeypatch.setattr("countersign.outside_view.certificate_findings", lambda *_: iter(()))
    return Site()


def view(site: Site) -> OutsideView:
    return OutsideView(httpx2.Client(transport=httpx2.MockTransport(site.serve)), lambda: NOW)


def issuer_findings(site: Site, keys: list[str] | None = None) -> list[Finding]:
    return list(view(site).issuer(ISSUER, keys))


def troubled(findings: list[Finding]) -> list[Finding]:
    found = [each for each in findings if each.level is not Level.OK]
    assert all(each.remedy for each in found)
    return found


@pytest.mark.requirement("operator-doctor")
def test_issuer_in_order_has_no_trouble(site: Site) -> None:
    findings = issuer_findings(site, ["k2", "k1"])
    assert [each.check for each in findings] == ["issuer", "issuer", "clock", "jwks"]
    assert troubled(findings) == []
    assert OAUTH == "https://as.example.com/.well-known/oauth-authorization-server/tenant"


@pytest.mark.requirement("operator-doctor")
@pytest.mark.parametrize("named", [f"{ISSUER}/", ISSUER.upper(), "https://other.example.com", None])
def test_issuer_that_is_not_byte_identical_is_a_problem(site: Site, named: str | None) -> None:
    site.pages[OPENID] = METADATA | {"issuer": named}
    (found,) = troubled(issuer_findings(site))
    assert (found.level, found.subject) == (Level.PROBLEM, OPENID)
    assert "every client must refuse it" in found.found


@pytest.mark.requirement("operator-doctor")
@pytest.mark.parametrize(
    ("page", "says"),
    [
        (httpx2.ConnectError("refused"), "refused"),
        (httpx2.ReadTimeout(""), "ReadTimeout"),
        (502, "HTTP 502"),
        (301, "HTTP 301"),
        (b"<html>", "not JSON"),
        (b"[" * 5_000, "not JSON"),
        ([], "not a JSON object"),
        (b" " * (MAXIMUM_DOCUMENT_BYTES + 1), "larger than 1 MiB"),
    ],
)
def test_issuer_that_does_not_answer_is_a_problem(site: Site, page: Any, says: str) -> None:
    site.pages[OPENID] = page
    (found,) = troubled(issuer_findings(site))
    assert found.level is Level.PROBLEM
    assert says in found.found


@pytest.mark.requirement("operator-doctor")
@pytest.mark.parametrize(("off", "level"), [(2, "ok"), (-9, "warning"), (45, "problem")])
def test_clock_of_the_server_is_compared_with_ours(site: Site, off: int, level: str) -> None:
    site.date = formatdate(NOW + off, usegmt=True)
    (found,) = (each for each in issuer_findings(site) if each.check == "clock")
    assert found.level.value == level


def test_date_that_is_absent_or_odd_is_no_reason_to_fail(site: Site) -> None:
    site.date = None
    assert not [each for each in issuer_findings(site) if each.check == "clock"]
    site.date = "yesterday"
    (found,) = troubled(issuer_findings(site))
    assert found.level is Level.WARNING


@pytest.mark.requirement("operator-doctor")
@pytest.mark.parametrize("page", [404, {"keys": []}, {}, b"no"])
def test_jwks_that_cannot_be_used_is_a_problem(site: Site, page: Any) -> None:
    site.pages[METADATA["jwks_uri"]] = page
    (found,) = troubled(issuer_findings(site))
    assert (found.check, found.level) == ("jwks", Level.PROBLEM)


@pytest.mark.requirement("operator-doctor")
def test_jwks_with_other_keys_than_the_server_has_is_a_problem(site: Site) -> None:
    (found,) = troubled(issuer_findings(site, ["k1", "k3"]))
    assert "other keys than the server has: k1, k2" in found.found
    assert troubled(issuer_findings(site, None)) == []


@pytest.mark.requirement("operator-doctor")
@pytest.mark.parametrize(
    ("page", "says"),
    [
        (RESOURCE, ""),
        (502, "HTTP 502"),
        (RESOURCE | {"resource": f"{BASE}/other/mcp"}, "calls itself"),
        (RESOURCE | {"authorization_servers": ["https://evil.example.com"]}, "sends clients to"),
        (RESOURCE | {"authorization_servers": []}, "sends clients to"),
    ],
)
def test_endpoint_of_a_gateway_names_itself_and_this_issuer(
    site: Site, page: Any, says: str
) -> None:
    site.pages[PROTECTED] = page
    (found,) = view(site).gateway(ISSUER, GATEWAY)
    assert (found.level is Level.OK) == (not says)
    assert says in found.found


@pytest.mark.parametrize(
    ("days", "level"), [(60, "ok"), (10, "warning"), (1, "problem"), (-5, "problem")]
)
def test_certificate_is_judged_by_when_it_ends(days: int, level: str) -> None:
    ends = formatdate(NOW + days * 86_400 + 60, usegmt=True).split(", ")[1]
    day, month, year, time, _ = ends.split()
    found = expiry_finding("as.example.com:443", f"{month} {int(day):2} {time} {year} GMT", NOW)
    assert (found.level.value, f"in {days} days" in found.found) == (level, True)


# The command


class Admin:
    """The admin API: what the server finds, and its Gateways."""

    def __init__(self) -> None:
        self.level = Level.OK
        self.error: AdminError | None = None
        self.issuer = ISSUER

    def call(self, method: str, path: str, *, wait_seconds: float = 0) -> Any:
        assert method == "GET"
        del wait_seconds
        if self.error is not None:
            raise self.error
        if path == "/gateways":
            return {"gateways": [GATEWAY]}
        remedy = "" if self.level is Level.OK else "mend it"
        inside = {
            "check": "server", "subject": "crm", "level": self.level.value,
            "found": "looked \x1b[2J at", "remedy": remedy,
        }  # fmt: skip
        return {"issuer": self.issuer, "published_keys": ["k1", "k2"], "findings": [inside]}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, site: Site) -> Admin:
    server = Admin()

    @contextmanager
    def admin(_context: CommandContext) -> Generator[Admin, None, None]:
        yield server

    def client(_timeout: float, _ca_file: Path | None) -> httpx2.Client:
        return httpx2.Client(transport=httpx2.MockTransport(site.serve))

    monkeypatch.setattr(CommandContext, "admin", admin)
    monkeypatch.setattr("countersign.cli.doctor.new_client", client)
    monkeypatch.setattr("countersign.cli.doctor.clock", lambda: NOW)
    return server


def run(*arguments: str) -> int:
    command = with_output_everywhere(app, without=PROCESSES)
    given = ["--issuer", ISSUER, "doctor", *arguments]
    return int(command(given, standalone_mode=False) or 0)


Captured = Callable[[], str]


@pytest.mark.requirement("operator-doctor")
@pytest.mark.parametrize(("level", "code"), [(Level.OK, 0), (Level.WARNING, 1), (Level.PROBLEM, 2)])
def test_doctor_exits_by_the_worst_it_found(
    server: Admin, level: Level, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    server.level = level
    assert run() == code
    out = capsys.readouterr().out
    assert ("mend it" in out) == (level is not Level.OK)
    assert "\x1b[2J" not in out


@pytest.mark.requirement("operator-doctor")
def test_doctor_shows_what_is_in_order_on_request(
    server: Admin, capsys: pytest.CaptureFixture[str]
) -> None:
    del server
    assert run() == 0
    assert capsys.readouterr().out == "6 ok, 0 warning, 0 problem (--all shows them)\n"
    assert run("--all") == 0
    assert "byte for byte" in capsys.readouterr().out


@pytest.mark.requirement("operator-doctor")
@pytest.mark.parametrize("is_whole", [True, False])
def test_doctor_is_folded_for_a_terminal_alone_and_never_obeyed(
    monkeypatch: pytest.MonkeyPatch,
    server: Admin,
    is_whole: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    del server
    monkeypatch.setattr(CommandContext, "is_whole", is_whole)
    monkeypatch.setattr("countersign.cli.main.PIPE_COLUMNS", 60)
    run("--all")
    out = capsys.readouterr().out
    assert (len(out.splitlines()) == 1 + 6 + 1) is is_whole  # heading, findings, count
    assert "\x1b[2J" not in out


@pytest.mark.requirement("operator-doctor")
def test_doctor_for_machines_is_the_findings_with_the_worst_level(
    server: Admin, capsys: pytest.CaptureFixture[str]
) -> None:
    server.level = Level.WARNING
    assert run("-o", "json") == 1
    said = json.loads(capsys.readouterr().out)
    assert (said["issuer"], said["level"], len(said["findings"])) == (ISSUER, "warning", 6)


@pytest.mark.requirement("operator-doctor")
@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        ("not_logged_in", "countersign login"),
        ("insufficient_role", "role viewer"),
        ("unreachable", "start the authorization server"),
    ],
)
def test_doctor_that_may_not_ask_the_server_still_looks_from_outside(
    server: Admin, error: str, remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server.error = AdminError(error, "no")
    assert run("--all") == 2
    out = capsys.readouterr().out
    assert remedy in out
    assert "byte for byte" in out


@pytest.mark.requirement("operator-doctor")
def test_doctor_of_a_server_with_another_issuer_says_so_first(
    server: Admin, capsys: pytest.CaptureFixture[str]
) -> None:
    server.issuer = "https://as.example.com"
    assert run() == 2
    assert "the server calls itself" in capsys.readouterr().out
