"""Reads the YAML documents an operator writes, and remembers on which line each field stands.

Shape only: one document is `kind / name / spec`, or a list of such; what `get` adds to one (its
version, author and time) is passed over. A `*.cedar` file is the Policy named as the file. A
mistake is reported as file, line and what would be right; what the registry finds wrong later is
mapped back to the line of the field.
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from countersign.yaml_text import ADDED_FIELDS
from registry.objects import KINDS, DeclaredObject
from registry.problem_words import errors_in, problem_words, suggestion

STANDARD_INPUT = Path("-")
CEDAR = ".cedar"
MAXIMUM_FILE_BYTES = 4_194_304
MAXIMUM_FIELDS = 100_000
MAXIMUM_DEPTH = 64  # as the admin API; an alias of itself has no end

_INDEX = re.compile(r"\[(\d+)\]")
_LINE_OF_TEXT = re.compile(r"(?P<field>.*):(?P<line>\d+)")


@dataclass(eq=False)  # not frozen: `raise` writes the traceback
class ManifestError(Exception):
    """A mistake in a file. `line` counts from 1."""

    file: Path
    line: int
    field: str
    message: str

    def __str__(self) -> str:
        """`file:line: field: what is wrong`, as compilers say it."""
        where = f"{self.file}:{self.line}: "
        return f"{where}{self.field}: {self.message}" if self.field else f"{where}{self.message}"


@dataclass(frozen=True, slots=True)
class Manifest:
    """One document, and the line of each of its fields by dotted path."""

    declared: DeclaredObject
    file: Path
    lines: dict[str, int]

    def line_of(self, field: str) -> int:
        """The line of `field`, or of its nearest parent that stands in the file.

        The registry writes `tools[0]` for an item, and `cedar:3` for a line of a text.
        """
        field = _INDEX.sub(r".\1", field)
        within = _LINE_OF_TEXT.fullmatch(field)
        if within is not None:
            field = within["field"]
            if (begins := self.lines.get(f"{field}:")) is not None:
                return begins + int(within["line"])
        while field and field not in self.lines:
            field = field.rpartition(".")[0]
        return self.lines.get(field, self.lines.get("", 1))


def read_manifests(path: Path) -> tuple[list[Manifest], list[ManifestError]]:
    """Every document of a file, or of a directory's `*.yaml` and `*.cedar` files in name order."""
    is_directory = path != STANDARD_INPUT and path.is_dir()
    files = sorted([*path.glob("*.y*ml"), *path.glob("*" + CEDAR)]) if is_directory else [path]
    found: list[Manifest] = []
    problems: list[ManifestError] = []
    if not files:
        problems.append(ManifestError(path, 1, "", "no .yaml or .cedar file here"))
    for file in files:
        try:
            found.extend(_read_file(file))
        except ManifestError as problem:
            problems.append(problem)
    if files and not found and not problems:
        # A pipe that brought nothing must not look like objects that are as they should be.
        problems.append(ManifestError(path, 1, "", "no object here"))
    seen: dict[tuple[str, str], Manifest] = {}
    for manifest in found:
        key = (manifest.declared.kind, manifest.declared.name)
        if key in seen:
            first = seen[key]
            problems.append(
                ManifestError(
                    manifest.file,
                    manifest.line_of("name"),
                    "name",
                    f"{key[0]} {key[1]} is declared twice, first in {first.file}:"
                    f"{first.line_of('name')}",
                )
            )
        seen[key] = manifest
    return found, problems


def _read_file(file: Path) -> list[Manifest]:
    text = _text_of(file)
    if file.suffix == CEDAR:
        return [_policy(file, text)]
    try:
        _require_shallow(file, text)
        nodes = list(yaml.compose_all(text, yaml.CSafeLoader))
        return [_manifest(file, node) for whole in nodes for node in _documents(whole)]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = 1 if mark is None else mark.line + 1
        message = error.problem or "not YAML"
        if "cannot start any token" in message and "\t" in text.splitlines()[line - 1]:
            message = "a tab: YAML is indented with spaces"
        raise ManifestError(file, line, "", message) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ManifestError(file, line, "", error.reason) from error


def _text_of(file: Path) -> str:
    try:
        if file == STANDARD_INPUT:
            content = sys.stdin.buffer.read(MAXIMUM_FILE_BYTES + 1)
        else:
            with file.open("rb") as opened:
                content = opened.read(MAXIMUM_FILE_BYTES + 1)
        if len(content) > MAXIMUM_FILE_BYTES:
            raise ManifestError(file, 1, "", f"larger than {MAXIMUM_FILE_BYTES} bytes")
        return content.decode()
    except FileNotFoundError as error:
        raise ManifestError(file, 1, "", "there is no such file or directory") from error
    except OSError as error:
        raise ManifestError(file, 1, "", error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise ManifestError(file, 1, "", "not UTF-8 text") from error


def _documents(node: yaml.Node) -> list[yaml.Node]:
    """A list of objects, as a program would print them, is its objects."""
    return list(node.value) if isinstance(node, yaml.SequenceNode) else [node]


def _policy(file: Path, text: str) -> Manifest:
    document = {"kind": "Policy", "name": file.stem, "spec": {"cedar": text}}
    lines = {"": 1, "spec.cedar": 1, "spec.cedar:": 0}  # its first line is line 1
    return Manifest(_declared(file, document, lines), file, lines)


def _require_shallow(file: Path, text: str) -> None:
    """Composing recurses in C: thousands of brackets would end the process, not raise."""
    depth = 0
    for event in yaml.parse(text, yaml.CSafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAXIMUM_DEPTH:
            mark = event.start_mark
            raise _too_deep(file, 1 if mark is None else mark.line + 1)


def _too_deep(file: Path, line: int) -> ManifestError:
    return ManifestError(file, line, "", f"nested deeper than {MAXIMUM_DEPTH}")


def _manifest(file: Path, node: yaml.Node) -> Manifest:
    lines: dict[str, int] = {}
    document = _plain(file, node, "", lines, 0)
    if not isinstance(document, dict):
        raise ManifestError(file, lines[""], "", "a document must be kind, name and spec")
    given = {name: value for name, value in document.items() if name not in ADDED_FIELDS}
    return Manifest(_declared(file, given, lines), file, lines)


def _declared(file: Path, document: dict[str, Any], lines: dict[str, int]) -> DeclaredObject:
    try:
        return DeclaredObject.model_validate(document)
    except ValidationError as error:
        first = errors_in(error)[0]
        field = ".".join(str(part) for part in first["loc"])
        message = problem_words(first, DeclaredObject)
        if field == "kind":
            message = f"unknown kind{suggestion(str(document.get('kind', '')), KINDS)}"
        nearest = field if field in lines else ""
        raise ManifestError(file, lines.get(nearest, 1), field, message) from error


def _plain(file: Path, node: yaml.Node, path: str, lines: dict[str, int], depth: int) -> Any:  # noqa: ANN401
    """A node as plain values; each line noted; a repeated key is a mistake, not the last wins."""
    line = node.start_mark.line + 1
    lines.setdefault(path, line)
    if len(lines) > MAXIMUM_FIELDS:  # aliases can make a small file expand without end
        raise ManifestError(file, line, "", "too many fields")
    if depth > MAXIMUM_DEPTH:
        raise _too_deep(file, line)
    if isinstance(node, yaml.SequenceNode):
        return [
            _plain(file, item, f"{path}.{index}" if path else str(index), lines, depth + 1)
            for index, item in enumerate(node.value)
        ]
    if not isinstance(node, yaml.MappingNode):
        if isinstance(node, yaml.ScalarNode) and node.style in {
            "|",
            ">",
        }:  # its first line stands below the key
            lines[f"{path}:"] = line
        value = yaml.SafeLoader("").construct_object(node, deep=True)
        # A date is text here: JSON has none, and the registry compares what was written.
        return value if isinstance(value, str | int | float | None) else str(node.value)
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = str(key_node.value)
        field = f"{path}.{key}" if path else key
        if key in values:
            raise ManifestError(file, key_node.start_mark.line + 1, field, "given twice")
        lines[field] = key_node.start_mark.line + 1
        values[key] = _plain(file, value_node, field, lines, depth + 1)
    return values
