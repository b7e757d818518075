"""`kill`, `restore`, `blocks`, `policy status`: no misspelt name is taken for a cut."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest
import typer

from countersign.admin_client import AdminError
from countersign.cli.context import CommandContext
from countersign.cli.main import PROCESSES, app
from countersign.cli.output_option import with_output_everywhere

EVENT = {"sequence": 4, "at_ms": 0, "is_known": True, "target_tokens_live_seconds": 0}
BLOCKS = [
    {"kind": "agent", "id": "support-bot", "blocked": True, "not_before": 1_700_000_000,
     "author": "local/acc_olga", "reason": "leaks data"},
    {"kind": "sub", "id": "usr_1", "blocked": False, "not_before": 1_700_000_000,
     "author": "local/acc_olga", "reason": ""},
    {"kind": "sub", "id": "usr_2", "blocked": True, "not_before": 1_700_000_000,
     "author": "local/acc_gone", "reason": "left"},
]  # fmt: skip
RUN = {"kind": "inv", "id": "inv_1", "blocked": True, "not_before": 1_700_000_000,
       "author": "agent:bot", "reason": "ended by its agent"}  # fmt: skip


class Admin:
    """The admin API with one agent; the gateway confirms at the second question."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.asked = 0
        self.confirms = True
        self.is_known = True
        self.refuses: AdminError | None = None
        self.blocks: list[dict[str, Any]] = BLOCKS

    def call(
        self, method: str, path: str, *, json: Any = None, query: dict[str, str] | None = None
    ) -> Any:
        del json
        if path.startswith("/persons"):
            bob = {"sub": "usr_2", "identity_provider": "local", "login": "bob"}
            logins = {"local/acc_olga": "olga", "usr_2": "bob"}
            return {"persons": [bob], "logins": logins, "sure": ["local/acc_olga"]}
        self.calls.append(f"{method} {path}")
        if self.refuses is not None:
            raise self.refuses
        if path.startswith("/blocks/acks/"):
            self.asked += 1
            applied = 1 if self.asked > 1 and self.confirms else None
            return {"acks": [{"worker": "gateway.main", "applied_at_ms": applied}]}
        if path == "/policies/status":
            return {"policy_version": 3, "waiting_for": ["crm/new"], "state": "waiting_for"}
        if path == "/objects/Agent":
            return {"objects": [{"name": "support-bot"}]}
        if query == {"runs": "true"}:
            return {"blocks": [RUN, *self.blocks]}
        return {"blocks": self.blocks} if method == "GET" else EVENT | {"is_known": self.is_known}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Admin:
    server = Admin()

    @contextmanager
    def admin(_context: CommandContext) -> Generator[Admin, None, None]:
        yield server

    monkeypatch.setattr(CommandContext, "admin", admin)
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setattr("countersign.cli.kill.CONFIRMATION_SECONDS", 0.01)
    return server


def run(*arguments: str) -> None:
    with_output_everywhere(app, without=PROCESSES)(list(arguments), standalone_mode=False)


def test_kill_of_an_agent_nobody_declared_names_the_one_meant(server: Admin) -> None:
    with pytest.raises(AdminError) as refused:
        run("kill", "agent/suport-bot", "--reason", "x")
    assert "did you mean 'support-bot'" in refused.value.description
    assert server.calls == ["GET /objects/Agent"]


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("server/", "is not KIND/NAME"),
        ("crm", "is not KIND/NAME"),
        ("mcp/crm", "'mcp' is no kind"),
        ("consent/alice", "a consent is named by its id, grt_…"),
        ("consent/grt_abc", "part of one cuts off nothing"),
        ("session/ses_abc", "part of one cuts off nothing"),
        ("sid/ses_abc", "the id of a session is ses_ and 26 characters"),
    ],
)
def test_kill_says_what_of_its_target_is_wrong(target: str, says: str) -> None:
    with pytest.raises(typer.BadParameter, match=says):
        run("kill", target, "--reason", "test")


@pytest.mark.parametrize(
    "arguments",
    [
        ("agent/support-bot",),
        ("agent/gone-bot", "--force"),
        (f"consent/grt_{'a' * 26}",),
        (f"gid/grt_{'a' * 26}",),  # as the audit has it
    ],
)
def test_kill_of_a_declared_agent_or_by_force_blocks(
    server: Admin, arguments: tuple[str, ...]
) -> None:
    run("kill", *arguments, "--reason", "x")
    assert "POST /blocks" in server.calls


@pytest.mark.parametrize(
    ("arguments", "is_known", "confirms", "code"),
    [
        (("agent/support-bot",), True, True, 0),
        (("agent/support-bot",), True, False, 1),
        (("agent/gone-bot", "--force"), False, True, 0),
        (("agent/gone-bot", "--force"), False, False, 1),
        (("agent-class/suport", "--force"), False, True, 0),
        (("agent-class/suport",), False, True, 1),
    ],
)
def test_kill_exits_0_when_what_was_meant_is_cut_off_and_confirmed(
    server: Admin,
    arguments: tuple[str, ...],
    is_known: bool,
    confirms: bool,
    code: int,
) -> None:
    server.is_known, server.confirms, server.asked = is_known, confirms, 1
    command = with_output_everywhere(app, without=PROCESSES)
    ended = command(["kill", *arguments, "--reason", "x"], standalone_mode=False)
    assert (ended or 0) == code
    assert "POST /blocks" in server.calls


def test_restore_of_what_is_not_blocked_says_so_in_the_words_that_were_typed(
    server: Admin,
) -> None:
    server.refuses = AdminError("not_blocked", "The person 'usr_2' is not blocked.", 409)
    with pytest.raises(AdminError) as refused:
        run("restore", "user/bob")
    assert refused.value.description == "user/bob is not blocked"
    server.refuses = AdminError("not_found", "Nothing is blocked under that name.", 404)
    with pytest.raises(AdminError) as refused:
        run("restore", "user/bob")
    assert refused.value.description == "Nothing is blocked under that name."


def test_restore_waits_until_the_gateways_have_it(server: Admin) -> None:
    run("restore", "agent/support-bot")
    assert server.calls == ["DELETE /blocks/agent/support-bot", *["GET /blocks/acks/4"] * 2]


@pytest.mark.usefixtures("server")
def test_blocks_lists_what_restore_takes(capsys: pytest.CaptureFixture[str]) -> None:
    run("blocks")
    assert capsys.readouterr().out.splitlines() == [
        "BLOCKED            NAME  SINCE                 BY                     WHY",
        "agent/support-bot        2023-11-14T22:13:20Z  olga (local/acc_olga)  leaks data",
        "user/usr_2         bob   2023-11-14T22:13:20Z  local/acc_gone         left",
    ]


def test_blocks_says_when_nothing_is_blocked(
    server: Admin, capsys: pytest.CaptureFixture[str]
) -> None:
    server.blocks = []
    run("blocks")
    assert capsys.readouterr().out == "Nothing is blocked.\n"
    run("blocks", "-o", "json")
    assert capsys.readouterr().out == "[]\n"


@pytest.mark.usefixtures("server")
@pytest.mark.requirement("blocks-by-people")
def test_blocks_lists_runs_that_agents_ended_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    run("blocks", "--runs")
    shown = capsys.readouterr().out
    assert "run/inv_1" in shown
    assert "agent:bot" in shown
    assert "agent/support-bot" in shown


@pytest.mark.usefixtures("server")
def test_policy_status_says_what_decides_and_what_waits(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run("policy", "status")
    shown = capsys.readouterr().out
    assert "Policy set 3 decides." in shown
    assert "crm/new" in shown
