"""CPU time of a process with all its children and threads, and on which core they run (Linux)."""

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

STOP_SECONDS = 10.0


def tree(pid: int) -> list[int]:
    """The process and everything below it, as far as it is still there."""
    found = [pid]
    for thread in _threads(pid):
        with suppress(OSError):
            children = (thread / "children").read_text().split()
            found += [each for child in children for each in tree(int(child))]
    return found


def cpu_us(pid: int) -> float:
    """Microseconds of CPU the tree has used so far, of threads that are alive."""
    total = 0.0
    for process in tree(pid):
        for thread in _threads(process):
            with suppress(OSError):
                total += int((thread / "schedstat").read_text().split()[0]) / 1000
    return total


def core_busy_us(core: int) -> float:
    """Microseconds a core was busy since the machine started, for anybody and for the host."""
    ticks_per_second = os.sysconf("SC_CLK_TCK")
    for line in Path("/proc/stat").read_text().splitlines():
        name, *ticks = line.split()
        if name == f"cpu{core}":
            user, nice, system, _idle, _waiting, *interrupts_and_steal = map(int, ticks[:8])
            return (user + nice + system + sum(interrupts_and_steal)) * 1e6 / ticks_per_second
    return 0.0


def pin(pid: int, core: int) -> None:
    """Keep the tree, every thread of it, on one core."""
    for process in tree(pid):
        for thread in _threads(process):
            with suppress(OSError):
                os.sched_setaffinity(int(thread.name), {core})


def command_line(pid: int) -> str:
    """How a process was started; nothing when it is gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end, then make it."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


def _threads(pid: int) -> list[Path]:
    with suppress(OSError):
        return list(Path(f"/proc/{pid}/task").iterdir())
    return []
