"""What `/proc` says of one process: who it runs as, which unit and which program it is.

Reading is not atomic. Whoever calls must hold a pidfd of the process and check that it is still
alive *after* reading (`idp_connectors.workload.peer`): only then were all facts of one process.
What the process itself controls (its arguments, hence the script) is good for demonstrations
only. A fact that may not be read is None, and None never matches a rule.
"""

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MAXIMUM_SCRIPT_BYTES: Final = 1_048_576
MAXIMUM_PROC_BYTES: Final = 65_536

# What follows these Python options is their value, not the script.
_PYTHON_VALUE_OPTIONS: Final = frozenset(("-W", "-X", "--check-hash-based-pycs"))
_UNIT_SUFFIXES: Final = (".service", ".scope", ".socket", ".mount", ".swap")


class ProcessGoneError(Exception):
    """The process ended, or is not the one it was, while it was being looked at."""


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """One process. `start_time` is in clock ticks since boot: with the pid it names one process.

    `uids` and `gids` are real, effective, saved, file system. `unit` is the systemd unit the
    *system* manager put it in; `cgroup` the whole path. `script_digest` is `sha-256:HEX`.
    """

    pid: int
    parent_pid: int
    start_time: int
    uids: tuple[int, ...]
    gids: tuple[int, ...]
    cgroup: str
    unit: str | None
    exe: str | None
    script_digest: str | None = None

    @property
    def uid(self) -> int:
        """The effective user id."""
        return self.uids[1]

    @property
    def gid(self) -> int:
        """The effective group id."""
        return self.gids[1]


def read_process(pid: int, *, with_script: bool) -> ProcessFacts:
    """Everything we look at of a process.

    Raises:
        ProcessGoneError: There is no such process, or it changed under our eyes.
    """
    directory = Path("/proc", str(pid))
    try:
        parent_pid, start_time = _stat(directory)
        identifiers = _identifiers(directory)
        cgroup = _cgroup(directory)
        exe = _exe(directory)
        script = _script_digest(directory, identifiers["Uid"][1]) if with_script else None
        again = _stat(directory)
    except (OSError, ValueError, KeyError, IndexError) as cause:
        raise ProcessGoneError(f"process {pid} cannot be read") from cause
    if again != (parent_pid, start_time):
        raise ProcessGoneError(f"process {pid} changed while it was read")
    return ProcessFacts(
        pid=pid,
        parent_pid=parent_pid,
        start_time=start_time,
        uids=identifiers["Uid"],
        gids=identifiers["Gid"],
        cgroup=cgroup,
        unit=unit_of(cgroup),
        exe=exe,
        script_digest=script,
    )


def parent_of(pid: int) -> int:
    """The parent's pid as of now; 0 above the topmost process.

    Raises:
        ProcessGoneError: There is no such process.
    """
    try:
        return _stat(Path("/proc", str(pid)))[0]
    except (OSError, ValueError, IndexError) as cause:
        raise ProcessGoneError(f"process {pid} cannot be read") from cause


def unit_of(cgroup: str) -> str | None:
    """The unit a control group belongs to: the first part below the slices.

    Only the system manager makes these. What lies deeper (a user manager's own units) is named
    by the user, who could call it anything: attack, a user unit named like a system service.
    """
    for part in cgroup.strip("/").split("/"):
        if part.endswith(".slice"):
            continue
        return part if part.endswith(_UNIT_SUFFIXES) else None
    return None


def _stat(directory: Path) -> tuple[int, int]:
    text = _read(directory / "stat")
    # The command in parentheses may itself contain spaces and parentheses.
    fields = text[text.rindex(")") + 2 :].split()
    return int(fields[1]), int(fields[19])  # proc(5): fields 4 (ppid) and 22 (starttime)


def _identifiers(directory: Path) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for line in _read(directory / "status").splitlines():
        name, _, values = line.partition(":")
        # The first of each: a process name cannot forge a line, the kernel escapes it.
        if name in ("Uid", "Gid") and name not in found:
            found[name] = tuple(int(value) for value in values.split())
    return {"Uid": found["Uid"], "Gid": found["Gid"]}


def _cgroup(directory: Path) -> str:
    by_controller: dict[str, str] = {}
    for line in _read(directory / "cgroup").splitlines():
        hierarchy, controllers, path = line.split(":", 2)
        by_controller["" if hierarchy == "0" else controllers] = path
    return by_controller.get("") or by_controller.get("name=systemd") or ""


def _exe(directory: Path) -> str | None:
    try:
        path = os.fsencode((directory / "exe").readlink())
    except (PermissionError, FileNotFoundError):
        return None  # another user's process, or a kernel thread
    # A replaced program is not the program at that path any more.
    return None if path.endswith(b" (deleted)") else path.decode(errors="backslashreplace")


def _script_digest(directory: Path, uid: int) -> str | None:
    """The digest of the script an interpreter runs, as far as its arguments tell."""
    arguments = (directory / "cmdline").read_bytes()[:MAXIMUM_PROC_BYTES]
    path = script_of(os.fsdecode(arguments).split("\0")[:-1])
    if path is None:
        return None
    try:
        return _digest(_base(directory, path) / path.lstrip("/"), uid)
    except OSError:
        return None


def _base(directory: Path, path: str) -> Path:
    """Where a path of the process's arguments begins.

    A process that closes its memory to its user (`agent run`) closes these links with it, but to
    root. An absolute path then begins where ours do: all of this is the process's own word anyway.
    """
    base = directory / ("root" if path.startswith("/") else "cwd")
    try:
        base.readlink()
    except PermissionError:
        if path.startswith("/"):
            return Path("/")
        raise
    return base


def script_of(arguments: list[str]) -> str | None:
    """The script among an interpreter's arguments: the first that is no option."""
    is_python = os.path.basename(arguments[0]).startswith("python") if arguments else False  # noqa: PTH119 - not a path of ours
    rest = iter(arguments[1:])
    for argument in rest:
        if is_python and argument in ("-c", "-m", "-"):
            return None
        if is_python and argument in _PYTHON_VALUE_OPTIONS:
            next(rest, None)
        elif not argument.startswith("-"):
            return argument or None
    return None


def _digest(path: Path, uid: int) -> str | None:
    # Non-blocking: the path may name a pipe. No terminal may become ours.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        facts = os.fstat(descriptor)
        may_read = facts.st_uid == uid or bool(facts.st_mode & stat.S_IROTH)
        # INVARIANT: never a digest of a file its process could not read itself.
        if not stat.S_ISREG(facts.st_mode) or not may_read:
            return None
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(MAXIMUM_SCRIPT_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > MAXIMUM_SCRIPT_BYTES:
        return None
    return "sha-256:" + hashlib.sha256(content).hexdigest()


def _read(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(MAXIMUM_PROC_BYTES).decode(errors="backslashreplace")
