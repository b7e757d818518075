"""`make bench`: our real processes beside the peers, interleaved, as ratios; see README.md.

python -m bench.run [--quick] [--row gateway|token]
"""

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench import gateway_row, token_row
from bench.evidence import Calls, Evidence, examine
from bench.load import LoadError
from bench.peers import (
    Cores,
    PeerUnavailableError,
    Workbench,
    build_upstream,
    require_load_generator,
)
from bench.product import Product, free_port, running
from bench.report import Measured, Row, row_lines, variant_lines, write_results
from bench.rounds import measure
from bench.samples import problems_of
from compose.demo.stack import StackError

RESULTS = Path(__file__).with_name("results.json")
MAXIMUM_SECONDS = 360
OURS = (gateway_row.BEARER, gateway_row.PROVED)


def main() -> int:
    """Run, print, write `bench/results.json`; 0 when every row that has a budget could be taken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round: does it run?")
    parser.add_argument("--row", choices=("gateway", "token"), help="only this one")
    given = parser.parse_args()
    # Both end the run by an exception, so that every process is ended on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("bench: ended"))
    signal.signal(signal.SIGALRM, lambda *_: sys.exit(f"bench: not done in {MAXIMUM_SECONDS} s"))
    signal.alarm(MAXIMUM_SECONDS)
    try:
        with tempfile.TemporaryDirectory(prefix="countersign-bench-") as directory:
            workbench = Workbench(Path(directory), Cores.choose())
            try:
                rows = _measure(workbench, given.row, is_quick=given.quick)
            finally:
                workbench.stop_all()
    except (PeerUnavailableError, StackError, LoadError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print("\n".join(("", *row_lines(rows))))
    if not given.quick:
        write_results(RESULTS, rows)
        print(f"\nwritten: {RESULTS}")
    return 0 if all(row.value is not None for row in rows) else 1


def _measure(workbench: Workbench, only: str | None, *, is_quick: bool) -> list[Row]:
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:5.0f} s  {text}", flush=True)

    require_load_generator()
    ours, theirs = _upstream(workbench, "upstream"), _upstream(workbench, "upstream-of-peers")
    rows: list[Row] = []
    with running(workbench.directory / "product", ours) as product:
        say("the product is up: 100 policies, 64 tokens, 1,000 argument values")
        if only in {None, "gateway"}:
            rows += _gateway(workbench, product, (ours, theirs), say, is_quick=is_quick)
        if only in {None, "token"}:
            rows += _token(workbench, product, ours, say, is_quick=is_quick)
    return rows


def _gateway(
    workbench: Workbench,
    product: Product,
    upstreams: tuple[int, int],
    say: Callable[[str], None],
    *,
    is_quick: bool,
) -> list[Row]:
    ours, theirs = upstreams
    before = gateway_row.calls_answered(ours)
    variants = gateway_row.variants_of(workbench, product, theirs, say)
    product.pin(measured="gateway", cores=workbench.cores)
    pairs = gateway_row.warm_up(variants, product, workbench)
    say(f"warm: {pairs:,} of {gateway_row.PAIRS:,} pairs of person and argument decided")
    schedule = gateway_row.QUICK if is_quick else gateway_row.SCHEDULE
    measured = measure(variants, schedule, workbench.cores, say)
    calls = Calls(
        answered=sum(each.answered for each in variants if each.name in OURS),
        cut_at_most=sum(each.cut_at_most for each in variants if each.name in OURS),
        at_upstream=gateway_row.calls_answered(ours) - before,
    )
    evidence = examine(product, calls)
    problems = evidence.problems
    for connections, by_variant in measured.items():
        _print_variants(f"Gateway, connections: {connections}", by_variant)
        problems += problems_of(by_variant)
    print(gateway_row.CONDITIONS)
    _print_evidence(calls, evidence)
    _print_problems(problems)
    return gateway_row.rows(measured, variants, void=bool(problems))


def _token(
    workbench: Workbench,
    product: Product,
    upstream: int,
    say: Callable[[str], None],
    *,
    is_quick: bool,
) -> list[Row]:
    variants = token_row.variants_of(workbench, product, upstream, say)
    product.pin(measured="authority", cores=workbench.cores)
    token_row.warm_up(variants, workbench)
    schedule = token_row.QUICK if is_quick else token_row.SCHEDULE
    measured = measure(variants, schedule, workbench.cores, say)
    by_variant = measured[token_row.CONNECTIONS]
    _print_variants(f"Token endpoint, connections: {token_row.CONNECTIONS}", by_variant)
    print(token_row.CONDITIONS)
    problems = problems_of(by_variant)
    _print_problems(problems)
    return token_row.rows(measured, void=bool(problems))


def _upstream(workbench: Workbench, name: str) -> int:
    """A stub MCP server; its port."""
    port = free_port()
    workbench.start(name, [str(build_upstream()), str(port)], core=workbench.cores.load, port=port)
    return port


def _print_variants(title: str, measured: Measured) -> None:
    print("\n".join(("", title, *variant_lines(measured))))


def _print_evidence(calls: Calls, evidence: Evidence) -> None:
    recorded = evidence.recorded
    ends = ", ".join(f"{count:,} {outcome}" for outcome, count in recorded.outcomes.items())
    print(
        f"\n{calls.answered:,} calls answered, at most {calls.cut_at_most:,} cut off at the end of"
        f" a run\n{recorded.allowed + recorded.denied:,} intents ({recorded.denied:,} denied),"
        f" outcomes: {ends}; {calls.at_upstream:,} calls at the MCP server"
        f"\n{evidence.sampled:,} decisions made again without any cache"
    )


def _print_problems(problems: tuple[str, ...]) -> None:
    for problem in problems[:10]:
        print(f"VOID: {problem}")


if __name__ == "__main__":
    sys.exit(main())
