"""The load generator: wrk with `load.lua`, one thread on a core of its own, for a bounded time."""

import json
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.peers import Cores
from bench.process_tree import core_busy_us, cpu_us
from bench.samples import Sample

SCRIPT: Final = Path(__file__).with_name("load.lua")
GRACE_SECONDS: Final = 20.0  # wrk ends by itself; if it does not, it is ended
_RESULT: Final = re.compile(r"^RESULT (\{.*\})$", re.MULTILINE)


class LoadError(Exception):
    """The load generator did not run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What to send: the environment of `load.lua`."""

    url: str
    requests: Mapping[str, str]


def drawn(url: str, heads: Path, bodies: Path) -> Load:
    """One head and one body of the files for each request, at random."""
    return Load(url=url, requests={"BENCH_HEADS": str(heads), "BENCH_BODIES": str(bodies)})


def walked(url: str, heads: Path, bodies: Path, start: int) -> Load:
    """As `drawn`, but each pair in turn, from the pair of that number on."""
    files = drawn(url, heads, bodies).requests
    return Load(url=url, requests={**files, "BENCH_WALK_FROM": str(start)})


def once(url: str, requests: Path) -> Load:
    """The requests of the file, each one once."""
    return Load(url=url, requests={"BENCH_ONCE": str(requests)})


def run(load: Load, *, connections: int, seconds: int, cores: Cores, server: int) -> Sample:
    """Send the load and measure; `server` is the process whose tree is charged.

    Raises:
        LoadError: wrk is missing or broke off.
    """
    command = ["taskset", "-c", str(cores.load), "wrk", "-t1", f"-c{connections}", f"-d{seconds}s"]
    before, busy_before = cpu_us(server), core_busy_us(cores.server)
    try:
        done = subprocess.run(
            [*command, "--timeout", "5s", "-s", str(SCRIPT), load.url],
            env={"PATH": os.environ["PATH"], **load.requests},
            capture_output=True,
            text=True,
            timeout=seconds + GRACE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LoadError(f"wrk: {error}") from error
    spent, busy = cpu_us(server) - before, core_busy_us(cores.server) - busy_before
    found = _RESULT.search(done.stdout)
    if found is None:
        raise LoadError(f"wrk ended with {done.returncode}: {done.stderr or done.stdout}")
    return sample_of(json.loads(found.group(1)), spent, max(0.0, busy - spent))


def sample_of(result: Mapping[str, float], spent_us: float, foreign_us: float) -> Sample:
    """The figures of wrk as a sample, with what speaks against it."""
    problems = []
    if result["not_2xx"]:
        problems.append("answers that are not 2xx")
    if result["socket_errors"]:
        problems.append("socket errors")
    if result["exhausted"]:
        problems.append("the requests prepared for a run were used up before its end")
    if not result["requests"]:
        problems.append("nothing was answered")
    return Sample(
        requests=int(result["requests"]),
        seconds=result["microseconds"] / 1e6,
        p50_us=result["p50"],
        p99_us=result["p99"],
        cpu_us=spent_us,
        foreign_us=foreign_us,
        problems=tuple(problems),
    )
