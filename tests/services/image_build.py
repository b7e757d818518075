"""The stage `build` of the Dockerfile without an engine: its commands, with its paths below ours.

As an engine does, this keeps what the commands before the product's own sources made, which is
every locked package: for exactly those words, those locks and this Python. What comes after, which
is the product, is done anew each time, on a copy of that.
"""

import contextlib
import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Final

from tests.compose_files import COMPOSE, Instruction, dockerfile
from tests.services.common import installing, run

SOURCES: Final = COMPOSE.parent
NAME: Final = "image-build"


def install() -> None:
    """Have the locked packages installed as the Dockerfile says, once for what it says now."""
    with installing(NAME) as folder:
        _keep_locked(folder)


@contextlib.contextmanager
def built() -> Iterator[Path]:
    """What stands for the root of the image after every command; gone at the end."""
    with installing(NAME) as folder:
        kept = _keep_locked(folder)
        root = folder / "root"
        # By links: Python and pip write no file in place, they put a new one there.
        run(["cp", "--archive", "--link", kept, root])
        try:
            for each in _stage()[len(_locked()) :]:
                _carry_out(each, root)
            yield root
        finally:
            shutil.rmtree(root)


def _stage() -> list[Instruction]:
    return [each for each in dockerfile() if each.stage == "build"]


def _locked() -> list[Instruction]:
    """Up to the first that copies something else than a lock."""
    return list(takewhile(lambda each: each.name != "COPY" or _copies_locks(each), _stage()))


def _copies_locks(instruction: Instruction) -> bool:
    return all(source.endswith(".lock") for source in instruction.words.split()[:-1])


def _made_of(instructions: list[Instruction]) -> str:
    """What decides what they make."""
    made_of = hashlib.sha256(f"{sys.version} {sys.base_prefix}".encode())
    for each in instructions:
        made_of.update(f"\n{each.name} {each.words}".encode())
        for source in each.words.split()[:-1] if each.name == "COPY" else ():
            made_of.update((SOURCES / source).read_bytes())
    return made_of.hexdigest()


def _keep_locked(folder: Path) -> Path:
    """They run where the copy will be used: a virtual environment knows its own place."""
    kept, root, made_of = folder / "kept", folder / "root", folder / "made-of"
    shutil.rmtree(root, ignore_errors=True)
    instructions = _locked()
    wanted = _made_of(instructions)
    if not made_of.exists() or made_of.read_text() != wanted:
        made_of.unlink(missing_ok=True)
        shutil.rmtree(kept, ignore_errors=True)
        for each in instructions:
            _carry_out(each, root)
        root.rename(kept)
        made_of.write_text(wanted)
    return kept


def _carry_out(instruction: Instruction, root: Path) -> None:
    work = root / "src"
    if instruction.name == "COPY":
        *sources, target = instruction.words.split()
        _copy(sources, work / target)
    if instruction.name == "RUN":
        command = json.loads(instruction.words)
        if command[0] == "install":  # owners are the engine's business
            return
        placed = [
            word.replace("/opt/", f"{root}/opt/").replace("/src/", f"{work}/") for word in command
        ]
        placed[0] = sys.executable if placed[0] == "python" else placed[0]
        run(placed, cwd=work, environment={"PYTHONPATH": ""})


def _copy(sources: list[str], target: Path) -> None:
    for source in sources:
        if (SOURCES / source).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(SOURCES / source, target, ignore=ignored)
        else:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(SOURCES / source, target)
