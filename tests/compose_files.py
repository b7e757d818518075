"""The compose file and the Dockerfile as data, for the tests that hold them to what there is."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

COMPOSE: Final = Path(__file__).parent.parent / "compose"


def services() -> dict[str, dict[str, Any]]:
    """Every service of compose.yaml, with its YAML anchors merged and variables as written."""
    return dict(document()["services"])


def document() -> dict[str, Any]:
    return dict(yaml.safe_load((COMPOSE / "compose.yaml").read_text()))


@dataclass(frozen=True)
class Instruction:
    """One instruction of a Dockerfile and the stage it is in."""

    stage: str
    name: str
    words: str


def dockerfile() -> list[Instruction]:
    """The instructions of the Dockerfile, in order; continued lines joined."""
    text = (COMPOSE / "Dockerfile").read_text().replace("\\\n", " ")
    found: list[Instruction] = []
    stage = ""
    for line in text.splitlines():
        name, _, words = line.partition(" ")
        if not re.fullmatch("[A-Z]+", name):
            continue
        if name == "FROM":
            stage = words.rpartition(" AS ")[2] if " AS " in words else "final"
        found.append(Instruction(stage, name, words.strip()))
    return found
