"""`explain`, `diff`, `export`, `describe`, and `kill` by name, against a small admin API."""

import json as json_text
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from countersign.admin_client import AdminError, Problem
from countersign.cli.main import PROCESSES, app
from countersign.cli.output_option import with_output_everywhere
from countersign.manifests import read_manifests
from countersign.relations import named_by, naming
from tests.countersign.admin_api import asked_by_commands

AT = "2026-01-31T08:00:00Z"
CEDAR = '@id("p") permit (principal in AgentGroup::"bots", action == Action::"crm/x", resource);\n'


def row(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    return {
        "kind": kind, "name": name, "spec": spec, "version": 3, "author": "usr_1", "changed_at": AT,
    }  # fmt: skip


ROWS = [
    row("TrustProvider", "unix", type="unix_process"),
    row("IdentityProvider", "local", type="local_accounts", groups=["*"]),
    row("CredentialProvider", "key", type="static_secret", secret="notes-key"),
    row("McpServer", "crm", url="http://127.0.0.1:1/mcp", credential={"provider": "key"}),
    row("Gateway", "main", base_url="http://127.0.0.1:2", servers=["crm"]),
    row("OAuthClient", "portal", display_name="1e3"),
    row(
        "Agent",
        "bot",
        owner="no",
        attestation={"providers": ["unix"], "match": {"unix.uid": "0012"}},
        acts_for={"groups": ["local/support"]},
        clients=["portal"],
        groups=["bots"],
        tools=["crm/*"],
    ),
    row("Policy", "p", cedar=CEDAR + 'forbid (principal == Agent::"bot", action, resource);\n'),
    row("AdminRole", "alice", identity_provider="local", subject="2026-01-31", role="admin"),
]
PLAN: dict[str, Any] = {"changes": [], "warnings": []}
EXPLAINED: dict[str, Any] = {
    "allowed": False,
    "agent": "bot",
    "user": "alice",
    "tool": "crm/refund",
    "at": AT,
    "checks": [
        {"check": "ceiling", "passed": True, "found": "Agent.tools has crm/*", "remedy": ""},
        {"check": "policy", "passed": False, "found": "guard forbids it", "remedy": ""},
    ],
    "policies": [
        {"id": "guard", "document": "p", "line": 4, "effect": "forbid", "conditions": [],
         "scope": ""}
    ],
    "nearest": [
        {"id": "g", "document": "p", "line": 1, "effect": "permit", "conditions": [],
         "scope": "for AgentGroup x"}
    ],
    "changes": ["amount is at most 500"],
    "assumed": ["bot is attested at level 1"],
}  # fmt: skip
DECISION = {
    "allowed": False, "outcome": "denied", "agent": "bot", "user": None, "tool": "crm/refund",
    "policies": ["guard"], "reasons": ["No."], "failed_conditions": ["x > 1"],
    "events": [{"timestamp": AT, "type": "call.decided", "outcome": "denied"}],
}  # fmt: skip


class Admin:
    """Answers from a table; keeps what was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, Any]] = []
        self.answers: dict[str, Any] = {
            "GET /objects": {"objects": ROWS},
            "POST /objects": PLAN,
            "POST /explain": EXPLAINED,
            "GET /audit/decisions/dec_1": DECISION,
            "GET /audit": {"events": []},
            "GET /blocks": {"blocks": []},
            "GET /policies/status": {"policy_version": 4, "waiting_for": ["crm/y"]},
            "GET /secrets": {"secrets": [{"name": "notes-key", "version": 2}]},
            "GET /persons": {"persons": []},
            "POST /persons/logins": {"logins": {}, "sure": []},
        }

    def call(
        self, method: str, path: str, *, json: Any = None, query: dict[str, str] | None = None
    ) -> Any:
        self.calls.append((method, path, json or query))
        if path.endswith("/history"):
            version = {"version": 3, "action": "create", "author": "usr_1", "changed_at": AT}
            return {"history": [version] * 12}
        answer = self.answers[f"{method} {path}"]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Admin:
    return asked_by_commands(Admin(), monkeypatch)


def run(*arguments: str) -> int:
    """The exit code."""
    code = with_output_everywhere(app, without=PROCESSES)(list(arguments), standalone_mode=False)
    return int(code or 0)


Shown = Callable[[], str]


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Shown:
    return lambda: capsys.readouterr().out


# explain


@pytest.mark.requirement("operator-explain")
def test_explain_shows_each_rung_the_policy_with_its_line_and_what_would_help(
    server: Admin, shown: Shown
) -> None:
    code = run("explain", "--agent", "bot", "--user", "alice", "--tool", "crm/refund",
               "--args", '{"amount": 900}', "--at", "2026-01-31", "--group", "local/x",
               "--level", "2")  # fmt: skip

    text = shown()
    assert code == 1
    assert "forbid guard (p:4) always" in text
    assert "nearest: permit g (p:1) for AgentGroup x" in text
    assert "It would be allowed if: amount is at most 500" in text
    assert "assumed: bot is attested at level 1" in text
    ((_, _, body),) = server.calls
    assert body["arguments"] == {"amount": 900}
    assert (body["at"], body["groups"], body["level"]) == (
        "2026-01-31T00:00:00+00:00", ["local/x"], 2,
    )  # fmt: skip


def test_explain_of_an_allowed_call_exits_0(server: Admin, shown: Shown) -> None:
    server.answers["POST /explain"] = EXPLAINED | {"allowed": True, "user": None}
    assert run("explain", "--agent", "bot", "--tool", "crm/refund") == 0
    assert "ALLOWED" in shown()
    server.answers["POST /explain"] = EXPLAINED | {"changes": None}
    assert run("explain", "--agent", "bot", "--tool", "crm/refund") == 1
    assert "No small change" in shown()
    run("explain", "--agent", "bot", "--tool", "crm/refund", "-o", "json")
    assert json_text.loads(shown())["agent"] == "bot"


def test_explain_of_a_decision_shows_what_was_recorded(server: Admin, shown: Shown) -> None:
    assert run("explain", "dec_1") == 1
    text = shown()
    assert "bot, crm/refund: DENIED, denied" in text
    assert "failed conditions: x > 1" in text
    assert run("explain", "dec_1", "-o", "json") == 1
    server.answers["GET /audit/decisions/dec_1"] = DECISION | {"allowed": True, "user": "usr_1"}
    server.answers["POST /persons/logins"] = {"logins": {"usr_1": "alice"}, "sure": []}
    assert run("explain", "dec_1") == 0
    assert "bot for alice (usr_1), crm/refund: ALLOWED" in shown()


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--agent", "bot"),
        ("dec_1", "--agent", "bot"),
        ("--agent", "bot", "--tool", "crm/x", "--args", "{"),
        ("--agent", "bot", "--tool", "crm/x", "--args", "[]"),
        ("--agent", "bot", "--tool", "crm/x", "--at", "soon"),
    ],
)
def test_explain_of_half_a_question_is_refused(server: Admin, arguments: tuple[str, ...]) -> None:
    with pytest.raises(typer.BadParameter):
        run("explain", *arguments)
    assert server.calls == []


# diff and export


@pytest.mark.requirement("operator-files")
@pytest.mark.usefixtures("server")
def test_export_writes_what_apply_reads_back_unchanged(tmp_path: Path) -> None:
    assert run("export", "-o", str(tmp_path / "out")) == 0

    manifests, problems = read_manifests(tmp_path / "out")
    assert problems == []
    again = {(each.declared.kind, each.declared.name): each.declared.spec for each in manifests}
    assert again == {(each["kind"], each["name"]): each["spec"] for each in ROWS}
    assert len(list((tmp_path / "out").iterdir())) == len(ROWS)


@pytest.mark.requirement("operator-files")
def test_export_prints_by_default_and_without_versions(server: Admin, shown: Shown) -> None:
    del server
    assert run("export") == 0
    documents = list(yaml.safe_load_all(shown()))
    assert len(documents) == len(ROWS)
    assert all(set(each) == {"kind", "name", "spec"} for each in documents)


@pytest.mark.usefixtures("server")
def test_export_beside_files_of_other_objects_points_them_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "old.cedar").touch()
    (tmp_path / "README.md").touch()
    assert run("export", "-o", str(tmp_path)) == 1
    assert "old.cedar" in capsys.readouterr().err


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "p.cedar"
    path.write_text(CEDAR)
    return path


@pytest.mark.requirement("operator-files")
def test_diff_without_a_difference_exits_0_and_changes_nothing(
    server: Admin, shown: Shown, file: Path
) -> None:
    assert run("diff", "-f", str(file)) == 0
    assert "No difference." in shown()
    assert [each[:2] for each in server.calls] == [("POST", "/objects")]


@pytest.mark.requirement("operator-files")
def test_diff_with_a_difference_exits_1_and_shows_fields_and_warnings(
    server: Admin, capsys: pytest.CaptureFixture[str], file: Path
) -> None:
    change = {
        "kind": "Policy", "name": "p", "action": "update",
        "fields": [{"field": "spec.cedar", "before": "a", "after": "b"}],
    }  # fmt: skip
    warning = {"kind": "Policy", "name": "p", "field": "spec.cedar:1", "message": "no argument"}
    server.answers["POST /objects"] = {"changes": [change], "warnings": [warning]}

    assert run("diff", "-f", str(file)) == 1

    out, err = capsys.readouterr()
    assert "~ Policy/p" in out
    assert 'spec.cedar: "a" → "b"' in out
    assert f"no argument ({file}:1)" in err
    assert run("diff", "-f", str(file), "-o", "json") == 1
    assert json_text.loads(capsys.readouterr().out) == [change]


@pytest.mark.requirement("operator-files")
def test_diff_of_wrong_objects_or_files_exits_2(
    server: Admin, capsys: pytest.CaptureFixture[str], file: Path, tmp_path: Path
) -> None:
    problem = Problem("Policy", "p", "spec.cedar:1", "unknown agent")
    server.answers["POST /objects"] = AdminError("invalid_object", "wrong", 400, (problem,))
    assert run("diff", "-f", str(file)) == 2
    assert f"unknown agent ({file}:1)" in capsys.readouterr().err
    (tmp_path / "bad.yaml").write_text("kind: Agnt\nname: a\nspec: {}\n")
    assert run("diff", "-f", str(tmp_path / "bad.yaml")) == 2


# describe


@pytest.mark.parametrize(
    ("older", "limit", "said"),
    [
        (None, 1, None),
        (17, 1, "these are the newest 1; there are older ones (--before 17)"),
        (17, 2, "looked at the newer part of the log; older ones may match (--before 17)"),
    ],
)
def test_audit_search_says_whether_older_events_follow(
    server: Admin, shown: Shown, older: int | None, limit: int, said: str | None
) -> None:
    event = {"timestamp": AT, "type": "call.finished", "outcome": "succeeded"}
    server.answers["GET /audit"] = {"events": [event], "next_before": older, "complete": True}

    assert run("audit", "search", "--limit", str(limit), "--before", "21") == 0

    assert server.calls[-1][2]["before"] == "21"
    text = " ".join(shown().split())
    assert ("older ones" in text) is (said is not None)
    assert (said or "complete") in text
    assert "complete: every source" in text


def test_describe_shows_versions_and_the_objects_around(server: Admin, shown: Shown) -> None:
    server.answers["GET /blocks"] = {
        "blocks": [
            {"kind": "agent", "id": "bot", "blocked": True, "not_before": 7},
            {"kind": "agent", "id": "other", "blocked": True, "not_before": 7},
            {"kind": "agent_group", "id": "bots", "blocked": False, "not_before": 9},
        ]
    }
    event = {
        "timestamp": AT, "type": "call.finished", "outcome": "succeeded",
        "target_service": "crm", "tool": "x",
    }  # fmt: skip
    server.answers["GET /audit"] = {"events": [event]}

    assert run("describe", "agent", "bot") == 0

    text = shown()
    assert "agent/bot: blocked; what was issued up to 1970-01-01T00:00:07Z is refused" in text
    assert "agent_group/bots: not blocked" in text
    assert "other" not in text
    assert f"{AT} call.finished succeeded crm/x" in text
    assert "IdentityProvider/local, McpServer/crm, OAuthClient/portal, TrustProvider/unix" in text
    assert "Policy/p" in text
    assert "and 2 older" in text


def test_describe_counts_as_seen_what_the_agent_did_and_not_what_was_done_to_it(
    server: Admin, shown: Shown
) -> None:
    killed = {"timestamp": AT, "type": "revocation.blocked", "outcome": "revoked"}
    called = {"timestamp": "2026-01-30T08:00:00.000Z", "type": "call.finished",
              "outcome": "succeeded", "target_service": "crm", "tool": "x"}  # fmt: skip
    server.answers["GET /audit"] = {"events": [killed, called]}
    run("describe", "agent", "bot")
    assert "last seen    2026-01-30T08:00:00Z call.finished succeeded crm/x" in shown()
    server.answers["GET /audit"] = {"events": [killed]}
    run("describe", "agent", "bot")
    assert "last seen    never" in shown()
    server.answers["GET /audit"] = {"events": [killed] * 100, "next_before": 7}
    run("describe", "agent", "bot")
    assert "last seen    not in the last 1000 events about it" in shown()
    assert ("GET", "/audit", {"agent": "bot", "limit": "100", "before": "7"}) in server.calls


@pytest.mark.parametrize(
    ("kind", "name", "says"),
    [
        ("policy", "p", ["4 decides", "crm/y"]),
        ("credentialprovider", "key", ["notes-key, version 2"]),
        ("mcpserver", "crm", ["NOT reachable since", "observed: refund"]),
        ("gateway", "main", ["snapshot 2 of 3", "thumb, enrolled 2026"]),
        ("oauthclient", "portal", ["cut off", "none"]),
        ("adminrole", "alice", ["IdentityProvider/local"]),
        ("agent", "bot", ["last seen", "never"]),
    ],
)
def test_describe_says_how_an_object_is_doing(
    server: Admin, shown: Shown, kind: str, name: str, says: list[str]
) -> None:
    report = {"gateway": "main", "error": "away", "era": "", "since": AT, "reported_at": AT}
    fine = {"gateway": "two", "error": "", "era": "legacy", "since": AT, "reported_at": AT}
    server.answers["GET /catalogue/crm"] = {
        "tools": [{"name": "refund", "state": "observed"}], "reports": [report, fine],
    }  # fmt: skip
    key = {"thumbprint": "thumb", "enrolled_at": AT}
    worker = {"worker": "w", "version": 2, "sequence": 0, "confirmed_at": AT}
    gateway = {"name": "main", "keys": [key], "workers": [worker]}
    server.answers["GET /gateways"] = {"version": 3, "sequence": 0, "gateways": [gateway]}
    assert run("describe", kind, name) == 0
    text = shown()
    assert all(each in text for each in says), text
    assert run("describe", kind, name, "-o", "yaml") == 0
    assert yaml.safe_load(shown())["name"] == name


def test_describe_of_nothing_says_what_was_meant(server: Admin) -> None:
    server.answers["GET /secrets"] = {"secrets": []}
    with pytest.raises(AdminError, match="did you mean 'bot'") as refused:
        raise_of("describe", "agent", "bott")
    assert refused.value.code == "not_found"


def raise_of(*arguments: str) -> None:
    try:
        run(*arguments)
    except AdminError as error:
        error.args = (error.description,)
        raise


def test_relations_follow_names_in_specs_and_in_cedar() -> None:
    by_key = {(each["kind"], each["name"]): each for each in ROWS}
    assert named_by(by_key["Policy", "p"], ROWS) == [("Agent", "bot"), ("McpServer", "crm")]
    assert naming(by_key["McpServer", "crm"], ROWS) == [
        ("Agent", "bot"), ("Gateway", "main"), ("Policy", "p"),
    ]  # fmt: skip
    assert naming(by_key["CredentialProvider", "key"], ROWS) == [("McpServer", "crm")]
    assert named_by(by_key["TrustProvider", "unix"], ROWS) == []


@pytest.mark.parametrize("spec", [{"attestation": None}, {}])
def test_relations_of_an_agent_that_proves_itself_in_no_way(spec: dict[str, Any]) -> None:
    strangers = row("Agent", "unattested-clients", tools=["crm/*"], **spec)
    assert named_by(strangers, [*ROWS, strangers]) == [("McpServer", "crm")]


def test_relations_of_an_agent_nobody_vouches_for_are_its_clients_and_people() -> None:
    spec = {
        "clients": ["inspector"],
        "tools": ["crm/get_*"],
        "acts_for": {"groups": [], "subject_tokens": [{"identity_provider": "local"}]},
    }
    row = {"kind": "Agent", "name": "unattested-clients", "spec": spec}
    client = {"kind": "OAuthClient", "name": "inspector", "spec": {}}
    rows = [*ROWS, row, client]
    assert named_by(row, rows) == [
        ("IdentityProvider", "local"), ("McpServer", "crm"), ("OAuthClient", "inspector"),
    ]  # fmt: skip
    assert naming(client, rows) == [("Agent", "unattested-clients")]


@pytest.mark.parametrize("word", ["table", "json", "yaml"])
def test_export_does_not_take_a_format_for_a_directory(word: str, server: Admin) -> None:
    with pytest.raises(typer.BadParameter, match="is its directory"):
        run("export", "-o", word)
    assert server.calls == []


# kill by name


EVENT = {"sequence": 4, "at_ms": 0, "is_known": None, "target_tokens_live_seconds": 0}


@pytest.mark.requirement("operator-names")
def test_kill_and_restore_of_a_person_by_name_take_the_id(server: Admin) -> None:
    person = {"sub": "usr_1", "identity_provider": "local", "login": "alice"}
    server.answers |= {
        "GET /persons": {"persons": [person]},
        "POST /blocks": EVENT,
        "DELETE /blocks/sub/usr_1": EVENT,
        "GET /blocks/acks/4": {"acks": []},
    }
    run("kill", "user/alice", "--reason", "x")
    run("restore", "user/alice")
    run("restore", "user/usr_1")
    bodies = [each for each in server.calls if each[1] == "/blocks"]
    assert bodies == [("POST", "/blocks", {"kind": "sub", "id": "usr_1", "reason": "x"})]
    assert [each[1] for each in server.calls].count("/blocks/sub/usr_1") == 2


@pytest.mark.requirement("operator-names")
@pytest.mark.parametrize(
    ("persons", "code", "listed"),
    [
        ([], "not_found", []),
        ([None], "never_logged_in", []),
        (["usr_1", "usr_2"], "ambiguous", ["usr_1", "usr_2"]),
        (["usr_1", None], "ambiguous", ["usr_1", "-"]),
    ],
)
def test_kill_of_a_name_that_is_not_one_person_cuts_off_nobody(
    server: Admin, persons: list[str | None], code: str, listed: list[str]
) -> None:
    found = [{"sub": each, "identity_provider": "local", "login": "alice"} for each in persons]
    server.answers["GET /persons"] = {"persons": found}
    with pytest.raises(AdminError) as refused:
        run("kill", "user/alice", "--reason", "x")
    assert (refused.value.code, [each.name for each in refused.value.problems]) == (code, listed)
    assert [each[1] for each in server.calls] == ["/persons"]


def test_kill_of_part_of_a_runs_id_is_refused_and_of_the_whole_done(server: Admin) -> None:
    server.answers |= {"POST /blocks": EVENT, "GET /blocks/acks/4": {"acks": []}}
    with pytest.raises(typer.BadParameter, match="26 characters"):
        run("kill", "run/inv_3f8a2c1e", "--reason", "x")
    assert server.calls == []
    whole = "inv_" + "a" * 26
    run("kill", f"run/{whole}", "--reason", "x")
    assert server.calls[0] == ("POST", "/blocks", {"kind": "inv", "id": whole, "reason": "x"})


@pytest.mark.requirement("operator-names")
def test_kill_of_a_name_somebody_may_have_chosen_asks_for_the_id(server: Admin) -> None:
    person = {"sub": "usr_2", "identity_provider": "corp", "login": "alice", "by_shown_name": True}
    server.answers["GET /persons"] = {"persons": [person]}
    with pytest.raises(AdminError, match="name one by id") as refused:
        raise_of("kill", "user/alice", "--reason", "x")
    assert [each.name for each in refused.value.problems] == ["usr_2"]
    assert [each[1] for each in server.calls] == ["/persons"]
