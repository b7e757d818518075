"""`audit search` by the names people have, and never an empty answer for a misspelt one."""

from collections.abc import Callable
from typing import Any

import pytest
import typer

from countersign.admin_client import AdminError
from countersign.cli.context import Output
from countersign.cli.main import PROCESSES, app
from countersign.cli.output_option import with_output_everywhere
from countersign.cli.people import Logins
from tests.countersign.admin_api import asked_by_commands

AT = "2026-01-31T08:00:00.123Z"
EVENT = {"timestamp": AT, "type": "call.decided", "outcome": "denied", "agent": "bot",
         "user": "usr_1", "target_service": "crm", "tool": "refund",
         "reasons": ["Agents may not refund more than 500."]}  # fmt: skip
ALICE = {"sub": "usr_1", "identity_provider": "local", "login": "alice", "by_shown_name": False}


class Admin:
    """One agent, one server, one person, and what the audit has."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = [EVENT]
        self.persons: list[dict[str, Any]] = [ALICE]
        self.asked: dict[str, str] = {}
        self.name = "alice"
        self.sure = 1

    def call(
        self, method: str, path: str, *, json: Any = None, query: dict[str, str] | None = None
    ) -> Any:
        match method, path:
            case "GET", "/audit":
                self.asked = query or {}
                return {"events": self.events, "complete": True, "next_before": None}
            case "GET", "/persons":
                return {"persons": self.persons, "meant": "; did you mean 'alice'?"}
            case "POST", "/persons/logins":
                known = [each for each in json["ids"] if each == "usr_1"]
                return {"logins": dict.fromkeys(known, self.name), "sure": known[: self.sure]}
            case "GET", "/objects/Agent":
                return {"objects": [{"name": "bot"}]}
            case "GET", "/objects/McpServer":
                return {"objects": [{"name": "crm"}]}
        raise AssertionError((method, path))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Admin:
    return asked_by_commands(Admin(), monkeypatch)


Search = Callable[..., str]


@pytest.fixture
def search(capsys: pytest.CaptureFixture[str]) -> Search:
    def typed(*options: str) -> str:
        command = with_output_everywhere(app, without=PROCESSES)
        command(["audit", "search", *options], standalone_mode=False)
        return capsys.readouterr().out

    return typed


@pytest.mark.requirement("operator-names")
@pytest.mark.parametrize("name", ["alice", "usr_1"])
def test_search_takes_a_person_by_login_name_and_by_id(
    server: Admin, search: Search, name: str
) -> None:
    shown = search("--user", name)
    assert server.asked["user"] == "usr_1"
    assert "2026-01-31T08:00:00Z  call.decided  denied   bot    alice (usr_1)  crm/refund" in shown


@pytest.mark.requirement("operator-names")
def test_search_takes_a_shown_name_of_one_person_and_of_two_none(
    server: Admin, search: Search
) -> None:
    server.persons = [ALICE | {"by_shown_name": True}]
    search("--user", "Alice Archer")
    assert server.asked["user"] == "usr_1"
    server.persons = [ALICE, ALICE | {"sub": "usr_2"}]
    with pytest.raises(AdminError) as refused:
        search("--user", "alice")
    assert (refused.value.code, len(refused.value.problems)) == ("ambiguous", 2)


@pytest.mark.requirement("operator-names")
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--user", "alcie"), "nobody called 'alcie' has an account here or ever logged in; did"),
        (("--user", "usr_2"), "nobody called 'usr_2'"),
        (("--agent", "bott"), "no Agent 'bott' is declared, and no event matches; did you mean"),
        (("--tool", "crn/refund"), "no McpServer 'crn' is declared"),
    ],
)
def test_search_for_an_unknown_name_is_refused_and_not_answered_empty(
    server: Admin, search: Search, options: tuple[str, ...], says: str
) -> None:
    server.events, server.persons = [], []
    with pytest.raises(AdminError) as refused:
        search(*options)
    assert refused.value.code == "not_found"
    assert refused.value.description.startswith(says)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--type", "call.decidd"), "did you mean 'call.decided'"),
        (("--outcome", "denid"), "did you mean 'denied'"),
    ],
)
def test_search_for_an_unknown_type_or_outcome_names_the_one_meant(
    server: Admin, search: Search, options: tuple[str, ...], says: str
) -> None:
    with pytest.raises(typer.BadParameter, match=says):
        search(*options)
    assert server.asked == {}
    search("--type", "call.decided", "--outcome", "denied")
    assert (server.asked["type"], server.asked["outcome"]) == ("call.decided", "denied")


@pytest.mark.requirement("operator-names")
def test_search_for_a_known_name_or_a_deleted_one_with_events_is_answered(
    server: Admin, search: Search
) -> None:
    assert "call.decided" in search("--agent", "gone", "--tool", "gone/refund")
    server.events = []
    assert "No event matches." in search("--agent", "bot", "--tool", "crm/x", "--user", "usr_1")


def test_search_in_a_narrow_terminal_is_two_lines_an_event(
    monkeypatch: pytest.MonkeyPatch, server: Admin, search: Search
) -> None:
    del server
    monkeypatch.setattr("countersign.cli.context.CommandContext.is_whole", False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("countersign.cli.main.PIPE_COLUMNS", 80)
    lines = search().splitlines()
    assert lines[2:4] == [
        "2026-01-31T08:00:00Z  call.decided  denied   bot    alice",
        "    crm/refund  Agents may not refund more than 500.",
    ]
    assert max(map(len, lines)) <= 80


@pytest.mark.requirement("operator-names")
@pytest.mark.parametrize("name", ["alice", "alice archer", "usr_1", "alice (USR_1)"])
def test_name_a_person_may_have_chosen_is_never_shown_without_the_id(name: str) -> None:
    logins = Logins({"usr_1": "alice", "usr_2": name}, sure={"usr_1"})
    assert logins.brief("usr_1") == "alice"
    assert logins.brief("usr_2") == logins.whole("usr_2")
    with_an_id = "usr_" in name.lower()
    assert logins.whole("usr_2") == ("usr_2" if with_an_id else f"{name} (usr_2)")


@pytest.mark.parametrize("name", ["usr_2", "local/acc_2", ""])
def test_login_name_that_looks_like_an_id_is_shown_with_the_id(name: str) -> None:
    assert "usr_1" in Logins({"usr_1": name}, sure={"usr_1"}).brief("usr_1")
    assert Logins({}).brief("usr_1") == "usr_1"


def test_search_in_a_narrow_terminal_shows_a_chosen_name_with_its_id(
    monkeypatch: pytest.MonkeyPatch, server: Admin, search: Search
) -> None:
    monkeypatch.setattr("countersign.cli.context.CommandContext.is_whole", False)
    assert " alice " in search()
    assert "usr_1" not in search()
    server.sure = 0
    assert "alice (usr_1)" in search()


def test_output_of_a_search_as_json_is_what_the_admin_api_said(
    server: Admin, search: Search
) -> None:
    assert AT in search("-o", Output.JSON.value)
    assert server.asked == {"limit": "50"}


@pytest.mark.requirement("operator-names")
def test_search_shows_in_full_the_ids_that_kill_and_explain_take(
    server: Admin, search: Search
) -> None:
    ids = {"decision_id": "dec_1", "invocation": "inv_1", "session": "ses_1", "consent": "grt_1"}
    server.events = [EVENT | ids | {"presented_token_id": "tok_1"}]
    shown = search("-o", "wide")
    for each in (*ids.values(), "tok_1"):
        assert each in shown
