"""What an operator gets wrong: the file, the line, the field and what would be right; exit 1.

A file that is not there is a wrong command line, which exits 2. Nothing is written until everything
is right. A process that cannot start says all that is wrong with its settings at once, and exits 2.
"""

import contextlib
import re
import socket
import sqlite3
from pathlib import Path
from typing import Any, Final

import pytest

from compose.demo.stack import COUNTERSIGN, Stack
from tests.operators import typed
from tests.stack import admin
from tests.witness import Witness

pytestmark = pytest.mark.processes

AGENT: Final = """\
kind: Agent
name: other-bot
spec:
  owner: someone@example.com
  attestation: {providers: [local], match: {unix.uid: "77777"}}
  acts_alone: true
  tools: [crm/get_*]
"""

POLICY: Final = """\
kind: Policy
name: broken
spec:
  cedar: |
    @id("good")
    permit (principal, action, resource);
"""


def declared(stack: Stack) -> Any:
    with admin(stack) as api:
        return api.call("GET", "/objects")


def apply(stack: Stack, path: Path, *options: str) -> tuple[int, str]:
    done = typed(stack, "apply", "-f", str(path), *options, socket=True, check=False)
    output = done.stderr + done.stdout
    assert "Traceback" not in output
    assert "site-packages" not in output
    return done.returncode, output


# The text of a file, the line that must be named, and what the message must contain.
FILES: Final[dict[str, tuple[str, int, tuple[str, ...]]]] = {
    "a syntax error": ("kind: Agent\nname: [x\nspec: {}\n", 3, ("expected",)),
    "a tab": ("kind: Agent\n\tname: x\n", 2, ()),
    "an unclosed quote": ('kind: Agent\nname: "x\n', 3, ()),
    "an unknown tag": ("kind: !!python/object:os.system Agent\nname: x\n", 1, ()),
    "a tag in a list": ("kind: Agent\nname: x\nspec: {a: [!!python/name:os.system x]}\n", 3, ()),
    "a list": ("- kind: Agent\n", 1, ("name", "required")),
    "a text": ("hello\n", 1, ("kind, name and spec",)),
    "a number": ("1\n", 1, ("kind, name and spec",)),
    "a repeated key": (AGENT + "  acts_alone: false\n", 8, ("spec.acts_alone", "twice")),
    "a repeated kind": ("kind: Agent\nkind: Policy\nname: x\nspec: {}\n", 2, ("kind", "twice")),
    "a misspelt kind": (
        "kind: Agnet\nname: x\nspec: {}\n",
        1,
        ("kind: unknown kind", "did you mean 'Agent'?"),
    ),
    "a kind like none": (
        "kind: Banana\nname: x\nspec: {}\n",
        1,
        ("kind: unknown kind", "known: ", "Agent", "Policy", "TrustProvider"),
    ),
    "no kind": ("name: x\nspec: {}\n", 1, ("kind",)),
    "no name": ("kind: Agent\nspec: {}\n", 1, ("name", "required")),
    "no spec": ("kind: Agent\nname: x\n", 1, ("spec", "required")),
    "a name with a slash": ("kind: Agent\nname: a/b\nspec: {}\n", 2, ("name",)),
    "an empty name": ('kind: Agent\nname: ""\nspec: {}\n', 2, ("name",)),
    "a name that is a number": ("kind: Agent\nname: 17\nspec: {}\n", 2, ("name",)),
    "an unknown member": ("kind: Agent\nname: x\nstatus: {}\nspec: {}\n", 3, ("status",)),
    "an unknown field": (AGENT + "  colour: red\n", 8, ("spec.colour",)),
    "an unknown field below": (
        AGENT.replace("acts_alone: true", "acts_for: {groups: [local/a], colour: red}"),
        6,
        ("spec.acts_for.colour",),
    ),
    "a wrong type": (AGENT.replace("acts_alone: true", "acts_alone: perhaps"), 6, ("acts_alone",)),
    "a list that is a text": (AGENT.replace("[crm/get_*]", "crm/get_*"), 7, ("spec.tools", "list")),
    "a missing field": (AGENT.replace("  owner: someone@example.com\n", ""), 3, ("spec.owner",)),
    "a pattern with two stars": (AGENT.replace("get_*", "*_*"), 7, ("spec.tools",)),
    "a provider that is not declared": (
        AGENT.replace("[local]", "[nowhere]"),
        5,
        ("spec.attestation.providers", "nowhere"),
    ),
    "a tool of a server that is not declared": (
        AGENT.replace("crm/get_*", "nowhere/get_*"),
        7,
        ("spec.tools", "nowhere"),
    ),
    "a client of another agent": (
        AGENT + "  clients: [support-bot]\n",
        8,
        ("spec.clients", "support-bot"),
    ),
    "an audience that is another's": (
        "kind: Gateway\nname: twin\nspec:\n  base_url: BASE_URL\n  servers: [crm]\n",
        4,
        ("spec.base_url",),
    ),
    "a url that is another's audience": (
        "kind: McpServer\nname: x\nspec:\n  url: BASE_URL/crm/mcp\n  credential: {provider: a}\n",
        4,
        ("spec.url",),
    ),
    "plain http to a far host": (
        "kind: Gateway\nname: far\nspec:\n  base_url: http://gw.example\n  servers: [crm]\n",
        4,
        ("spec.base_url", "https"),
    ),
    "a provider of no type": (
        "kind: CredentialProvider\nname: x\nspec:\n  type: magic\n",
        4,
        ("spec.type", "issued_token"),
    ),
    "a policy that is not cedar": (
        POLICY.replace("permit (", "allow ("),
        5,
        ("spec.cedar:1", "effect"),
    ),
    "a policy without an id": (POLICY.replace('    @id("good")\n', ""), 5, ("spec.cedar", "@id")),
    "a policy with the id of another": (
        POLICY.replace('"good"', '"grant-support-read"').replace("broken", "z-broken"),
        5,
        ("spec.cedar", "grant-support-read"),
    ),
    "a policy that names no such thing": (
        POLICY.replace("resource);", "resource) when { context.nonsense };"),
        6,
        ("spec.cedar", "nonsense"),
    ),
    "two of one name": (AGENT + "---\n" + AGENT, 10, ("declared twice", ":2")),
    "not utf-8": ("kind: Agent\nname: \xff\n", 1, ("UTF-8",)),
    "a NUL": ("kind: Agent\nname: x\x00y\n", 2, ("not allowed",)),
    "too large": ("#" * 5_000_000, 1, ("larger",)),
    "an alias bomb": (
        "kind: Agent\nname: x\nspec:\n  a: &a [x,x,x,x,x,x,x,x,x]\n"
        + "".join(
            f"  {b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n"
            for a, b in zip("abcdefgh", "bcdefghi", strict=True)
        ),
        0,
        ("too many",),
    ),
    "an alias of itself": ("kind: Agent\nname: x\nspec: &a {b: *a}\n", 3, ("deeper than 64",)),
    "a depth of 100": ("kind: Agent\nname: x\nspec: " + "[" * 100 + "]" * 100, 3, ("deeper",)),
    "a depth without end": ("a: " + "[" * 100_000 + "]" * 100_000, 1, ("deeper than 64",)),
}


@pytest.mark.parametrize("what", FILES)
def test_file_that_is_wrong_is_refused_with_file_line_and_field_and_nothing_is_written(
    stack: Stack, tmp_path: Path, what: str
) -> None:
    text, line, says = FILES[what]
    path = tmp_path / "objects.yaml"
    text = text.replace("BASE_URL", stack.base_url)
    path.write_bytes(text.encode("latin-1" if what == "not utf-8" else "utf-8"))
    before = declared(stack)

    status, output = apply(stack, path, "-y")

    assert status == 1, output
    assert f"{path}:" in output, output
    if line:
        assert re.search(rf"{re.escape(str(path))}:{line}\b", output), output
    for part in says:
        assert part in output, output
    assert len(output) < 5_000
    assert declared(stack) == before


def test_file_twin_that_is_right_is_applied_and_can_be_deleted(
    stack: Stack, tmp_path: Path
) -> None:
    path = tmp_path / "objects.yaml"
    path.write_text(AGENT)
    done = stack.command("apply", "-f", str(path), "-y", socket=True)
    assert "Applied as version" in done.stdout + done.stderr
    done = stack.command("delete", "Agent", "other-bot", "-y", socket=True, check=False)
    assert done.returncode == 0, done.stderr


def test_directory_with_several_wrong_files_names_every_one_and_writes_none(
    stack: Stack, tmp_path: Path
) -> None:
    (tmp_path / "1.yaml").write_text(AGENT)
    (tmp_path / "2.yaml").write_text("kind: Agnet\nname: x\nspec: {}\n")
    (tmp_path / "3.yml").write_text("kind: Agent\nname: [x\n")
    before = declared(stack)
    status, output = apply(stack, tmp_path, "-y")
    assert status == 1
    assert "2.yaml:1: kind:" in output
    assert "3.yml:" in output
    assert declared(stack) == before


def test_objects_with_several_mistakes_are_told_of_all_at_once(
    stack: Stack, tmp_path: Path
) -> None:
    path = tmp_path / "objects.yaml"
    wrong = AGENT.replace("[local]", "[nowhere]").replace("acts_alone: true", "colour: red")
    path.write_text(wrong + "---\n" + wrong.replace("other-bot", "third-bot"))
    status, output = apply(stack, path, "-y")
    assert status == 1
    for name, line in (("other-bot", 6), ("third-bot", 14)):
        assert re.search(rf"Agent/{name} spec\.colour: .*:{line}\)", output), output


@pytest.mark.parametrize(
    ("what", "exit_status"), [("nothing", 2), ("empty", 1), ("a directory without files", 1)]
)
def test_file_that_is_not_there_is_said_to_be(
    stack: Stack, tmp_path: Path, what: str, exit_status: int
) -> None:
    path = tmp_path / "objects.yaml"
    if what == "empty":
        path.write_text("")
    status, output = apply(stack, tmp_path if what.startswith("a dir") else path, "-y")
    assert status == exit_status
    assert str(tmp_path) in output


def test_dry_run_of_something_wrong_is_refused_as_well(stack: Stack, tmp_path: Path) -> None:
    path = tmp_path / "objects.yaml"
    path.write_text(AGENT.replace("[local]", "[nowhere]"))
    assert apply(stack, path, "--dry-run")[0] == 1


# --- nobody there, and settings ------------------------------------------------------------------


def test_issuer_that_does_not_answer_is_named(stack: Stack, tmp_path: Path) -> None:
    path = tmp_path / "objects.yaml"
    path.write_text(AGENT)
    for options in (["--socket", str(tmp_path / "no.sock")], ["--issuer", "http://127.0.0.1:9"]):
        done = stack.command(*options, "apply", "-f", str(path), "-y", check=False)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert "unreachable" in done.stderr or "not_logged_in" in done.stderr, done.stderr


SETTINGS: Final[dict[str, tuple[str, dict[str, str], tuple[str, ...]]]] = {
    "authz-server": (
        "authz-server",
        {
            "COUNTERSIGN_ISSUER": "http://as.example.com",
            "COUNTERSIGN_LISTEN_PORT": "99999",
            "COUNTERSIGN_LEASE_SECONDS": "0.1",
            "COUNTERSIGN_AUDIT_DURABILITY": "perhaps",
        },
        ("issuer", "loopback", "listen_port", "65535", "lease_seconds", "audit_durability"),
    ),
    "mcp-gateway": (
        "mcp-gateway",
        {"COUNTERSIGN_ISSUER": "https://as.example.com/", "COUNTERSIGN_GATEWAY_PORT": "x"},
        ("issuer", "slash", "gateway_port"),
    ),
    "serve": (
        "serve",
        {"COUNTERSIGN_ISSUER": "ftp://127.0.0.1", "COUNTERSIGN_LOG_LEVEL": "loud"},
        ("issuer", "https", "log_level"),
    ),
    "keys in the data directory": (
        "authz-server",
        {"COUNTERSIGN_DATA_DIR": "/tmp/x", "COUNTERSIGN_KEYS_DIR": "/tmp/x/keys"},  # noqa: S108
        ("keys_dir must lie outside data_dir",),
    ),
}


def start(stack: Stack, command: str, **more: str) -> tuple[int, str]:
    """Start a process that must end by itself; its exit status and what it said."""
    # The running stack has its own ports, and a taken one is what a process would tell first.
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        ports = {
            "COUNTERSIGN_LISTEN_PORT": str(one.getsockname()[1]),
            "COUNTERSIGN_GATEWAY_PORT": str(other.getsockname()[1]),
        }
    process = stack.start(command, [*COUNTERSIGN, command], **(ports | more))
    status = process.popen.wait(20)
    output = process.log.read_text()
    process.log.unlink()
    assert "Traceback" not in output, output
    return status, output


@pytest.mark.parametrize("what", SETTINGS)
def test_settings_that_are_wrong_are_all_told_at_start_with_exit_2(
    stack: Stack, tmp_path: Path, what: str
) -> None:
    command, wrong, says = SETTINGS[what]
    fresh = Stack(tmp_path, ports=stack.ports)
    status, output = start(fresh, command, **wrong)
    fresh.http.close()
    assert status == 2, output
    for part in says:
        assert part in output, output
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sqlite:////nonexistent/directory/countersign.db", "/nonexistent/directory"),
        ("postgresql+psycopg://u:secret@127.0.0.1:9/x", "cannot reach the database x"),
        ("postgresql+psycopg://u:secret@127.0.0.1:9/x?sslmode=prefer", "sslmode"),
        ("mysql://127.0.0.1/x", "sqlite:///PATH"),
        ("not a url", "cannot be read"),
    ],
)
def test_database_that_cannot_be_reached_at_start_is_said_in_a_sentence(
    tmp_path: Path, stack: Stack, url: str, says: str
) -> None:
    fresh = Stack(tmp_path, ports=stack.ports)
    status, output = start(fresh, "authz-server", COUNTERSIGN_DATABASE_URL=url)
    fresh.http.close()
    assert status in {1, 2}, output
    assert says in output
    assert "secret" not in output
    assert 0 < len(output) < 2_000


def test_database_that_is_none_is_left_as_it_is(tmp_path: Path, stack: Stack) -> None:
    path = tmp_path / "data" / "countersign.db"
    path.parent.mkdir(mode=0o700)
    path.write_bytes(b"this is no database" * 500)
    fresh = Stack(tmp_path, ports=stack.ports)
    status, output = start(fresh, "authz-server")
    fresh.http.close()
    assert status == 1, output
    assert path.read_bytes() == b"this is no database" * 500


def test_database_of_a_newer_release_is_left_as_it_is(tmp_path: Path, stack: Stack) -> None:
    path = tmp_path / "data" / "countersign.db"
    path.parent.mkdir(mode=0o700)
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY)")
    connection.execute("INSERT INTO alembic_version VALUES ('9999_from_the_future')")
    connection.commit()
    connection.close()
    fresh = Stack(tmp_path, ports=stack.ports)
    status, output = start(fresh, "authz-server")
    fresh.http.close()
    assert status == 1, output
    assert "9999_from_the_future" in output


def test_keys_that_are_not_the_databases_are_said_to_be(tmp_path: Path, stack: Stack) -> None:
    """A restored database with fresh key-encryption keys must not start with new keys."""
    fresh = Stack(tmp_path, ports=stack.ports)
    copy = tmp_path / "data"
    copy.mkdir(mode=0o700)
    theirs = sqlite3.connect(stack.directory / "data" / "countersign.db")
    ours = sqlite3.connect(copy / "countersign.db")
    with contextlib.closing(theirs), contextlib.closing(ours):
        theirs.backup(ours)
    status, output = start(fresh, "authz-server")
    fresh.http.close()
    assert status == 1, output
    assert "cannot_start" in output
    assert "key" in output


def test_gateway_that_is_not_enrolled_or_has_a_wrong_code_says_what_to_do(
    stack: Stack, tmp_path: Path
) -> None:
    fresh = Stack(tmp_path, ports=stack.ports)
    status, output = start(fresh, "mcp-gateway")
    assert status == 1
    assert "countersign gateway join" in output
    code = tmp_path / "code"
    for text in ("nonsense", f"{'x' * 40}.{'y' * 43}"):
        code.write_text(text)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        process = fresh.start(
            "gateway",
            [*COUNTERSIGN, "mcp-gateway", "--join-code-file", str(code)],
            COUNTERSIGN_GATEWAY_PORT=port,
        )
        assert process.popen.wait(20) == 1
        assert "Traceback" not in process.tail()
        assert "enrolment_failed" in process.tail()
    fresh.http.close()


def test_refused_objects_are_in_the_audit(stack: Stack, tmp_path: Path) -> None:
    path = tmp_path / "objects.yaml"
    path.write_text(AGENT.replace("[local]", "[nowhere]"))
    witness = Witness(stack)
    assert apply(stack, path, "-y")[0] == 1
    witness.event("admin.refused")
