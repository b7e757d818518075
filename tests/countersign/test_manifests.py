"""Reading an operator's YAML: every mistake has a file, a line and what would be right."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from countersign.manifests import read_manifests
from countersign.yaml_text import documents_of

CEDAR = '@id("a")\npermit (principal, action, resource);\n'

AGENT = """\
kind: Agent
name: support-bot
spec:
  owner: support@example.com
  tools:
    - crm/get_*
"""


def test_manifest_of_two_documents_remembers_the_line_of_each_field(tmp_path: Path) -> None:
    file = tmp_path / "objects.yaml"
    file.write_text(AGENT + "---\n" + AGENT.replace("support-bot", "batch-bot"))
    manifests, problems = read_manifests(file)
    assert problems == []
    assert [each.declared.name for each in manifests] == ["support-bot", "batch-bot"]
    assert manifests[0].line_of("spec.tools.0") == 6
    assert manifests[1].line_of("spec.owner") == 11
    assert manifests[1].line_of("spec.absent.deeper") == manifests[1].line_of("spec")


@pytest.mark.parametrize(
    ("text", "line", "field", "says"),
    [
        ("kind: Agent\nname: [1\nspec: {}\n", 3, "", "expected"),
        ("kind: Agnt\nname: a\nspec: {}\n", 1, "kind", "unknown kind; did you mean 'Agent'?"),
        ("kind: Agent\nname: Not A Name\nspec: {}\n", 2, "name", "must be lower-case"),
        ("kind: Agent\nname: a\nspec: {}\nspek: {}\n", 4, "spek", "did you mean 'spec'"),
        ("kind: Agent\nname: a\nname: b\nspec: {}\n", 3, "name", "given twice"),
        ("- a\n- b\n", 1, "", "kind, name and spec"),
        ("kind: Agent\nname: a\nspec: {x: &x [1, 2], y: *z}\n", 3, "", "undefined alias"),
    ],
    ids=["syntax", "kind", "name", "field", "twice", "list", "alias"],
)
def test_manifest_with_a_mistake_names_its_line(
    tmp_path: Path, text: str, line: int, field: str, says: str
) -> None:
    file = tmp_path / "objects.yaml"
    file.write_text(text)
    _, problems = read_manifests(file)
    assert [(problem.line, problem.field) for problem in problems] == [(line, field)]
    assert says in str(problems[0])
    assert str(problems[0]).startswith(f"{file}:{line}: ")


def test_manifest_that_expands_without_end_is_refused(tmp_path: Path) -> None:
    levels = [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 9)]
    body = "\n  ".join(["l0: &l0 [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]", *levels])
    file = tmp_path / "bomb.yaml"
    file.write_text(f"kind: Agent\nname: a\nspec:\n  {body}\n")
    _, problems = read_manifests(file)
    assert "too many fields" in str(problems[0])


def test_manifest_declared_twice_names_both_places(tmp_path: Path) -> None:
    for name in ("one.yaml", "two.yaml"):
        (tmp_path / name).write_text(AGENT)
    _, problems = read_manifests(tmp_path)
    assert "declared twice, first in" in str(problems[0])
    assert "one.yaml:2" in str(problems[0])


def test_manifest_with_a_date_keeps_it_as_text(tmp_path: Path) -> None:
    file = tmp_path / "objects.yaml"
    file.write_text("kind: Agent\nname: a\nspec: {since: 2026-11-21}\n")
    manifests, _ = read_manifests(file)
    assert manifests[0].declared.spec == {"since": "2026-11-21"}


@pytest.mark.parametrize("what", ["absent", "empty", "empty directory", "not text"])
def test_manifest_that_cannot_be_read_is_a_problem_not_a_crash(tmp_path: Path, what: str) -> None:
    path = tmp_path / "objects.yaml"
    if what == "not text":
        path.write_bytes(b"\xff\xfe\x00")
    elif what == "empty":
        path.write_text("# nothing yet\n")
    _, problems = read_manifests(tmp_path if what == "empty directory" else path)
    assert len(problems) == 1


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("kind: Agent\nname: a\nspec: &a {b: *a}\n", 3, "nested deeper than 64"),
        ("kind: Agent\nname: a\nspec: " + "[" * 100_000 + "]" * 100_000, 3, "nested deeper"),
        ("kind: Agent\nname: a\x00b\nspec: {}\n", 2, "not allowed"),
    ],
)
def test_manifest_that_would_end_the_reader_is_a_problem(
    tmp_path: Path, text: str, line: int, says: str
) -> None:
    file = tmp_path / "objects.yaml"
    file.write_text(text)
    _, problems = read_manifests(file)
    assert [problem.line for problem in problems] == [line]
    assert says in str(problems[0])


def test_manifest_knows_the_line_of_an_item_and_of_a_line_of_text(tmp_path: Path) -> None:
    file = tmp_path / "objects.yaml"
    file.write_text(
        "kind: Policy\nname: a\nspec:\n  tools:\n    - x\n    - y\n  cedar: |\n    one\n    two\n"
    )
    ((manifest,), _) = read_manifests(file)
    assert manifest.line_of("spec.tools[1]") == 6
    assert manifest.line_of("spec.tools[7]") == 4
    assert manifest.line_of("spec.cedar:2") == 9
    assert manifest.line_of("spec.cedar") == 7
    assert manifest.line_of("spec.nothing:3") == 3


def test_manifest_of_a_list_and_of_what_get_prints_is_its_objects(tmp_path: Path) -> None:
    shown = {"version": 7, "author": "usr_olga", "changed_at": "2026-01-01T00:00:00Z"}
    policy = {"kind": "Policy", "name": "one", "spec": {"cedar": "permit(\n  principal\n);\n"}}
    file = tmp_path / "all.json"
    file.write_text(json.dumps([policy | shown, policy | shown | {"name": "two"}]))
    manifests, problems = read_manifests(file)
    assert problems == []
    assert [each.declared.model_dump() for each in manifests] == [policy, policy | {"name": "two"}]


def test_documents_printed_by_get_are_read_back_whole(tmp_path: Path) -> None:
    objects: list[dict[str, Any]] = [
        {"kind": "Policy", "name": "one", "spec": {"cedar": CEDAR}, "version": 3},
        {"kind": "Agent", "name": "bot", "spec": {"match": {"unix.uid": "1001"}, "since": ":x:"}},
    ]
    text = documents_of(objects)
    assert "cedar: |\n" in text
    assert "version" not in text
    file = tmp_path / "all.yaml"
    file.write_text(text)
    manifests, problems = read_manifests(file)
    assert problems == []
    assert [each.declared.spec for each in manifests] == [each["spec"] for each in objects]


def test_cedar_file_is_the_policy_named_as_the_file(tmp_path: Path) -> None:
    (tmp_path / "agents.yaml").write_text(AGENT)
    (tmp_path / "helpdesk.cedar").write_text(CEDAR)
    manifests, problems = read_manifests(tmp_path)
    assert problems == []
    policy = manifests[1]
    assert (policy.declared.kind, policy.declared.name) == ("Policy", "helpdesk")
    assert policy.declared.spec == {"cedar": CEDAR}
    assert policy.line_of("spec.cedar:2") == 2
    (tmp_path / "Not A Name.cedar").write_text(CEDAR)
    _, problems = read_manifests(tmp_path)
    assert [problem.field for problem in problems] == ["name"]


def test_manifest_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(AGENT.encode())))
    manifests, problems = read_manifests(Path("-"))
    assert problems == []
    assert [each.declared.name for each in manifests] == ["support-bot"]


def test_tab_and_missing_file_are_named(tmp_path: Path) -> None:
    tabbed, missing = tmp_path / "tab.yaml", tmp_path / "nope.yaml"
    tabbed.write_text("kind: Agent\nspec:\n\towner: a\n")
    assert [str(each) for each in read_manifests(tabbed)[1]] == [
        f"{tabbed}:3: a tab: YAML is indented with spaces"
    ]
    assert [str(each) for each in read_manifests(missing)[1]] == [
        f"{missing}:1: there is no such file or directory"
    ]
