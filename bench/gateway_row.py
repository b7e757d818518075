"""The gateway row: the same calls through nginx, a bare Go proxy and our whole pipeline.

The peers move bytes and check nothing. Ours is measured twice: with bearer tokens, which is what
the budget was set for, and with tokens bound to a key, which is how the product ships: there every
call brings a DPoP proof of its own, and every proof costs a signature check that nothing can cache.
"""

import http.client
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import budgets, declared
from bench.load import Load, drawn, once, walked
from bench.peers import GATEWAY_PEERS, PeerUnavailableError, Workbench
from bench.product import PEOPLE, RUNS, Product, free_port
from bench.report import Row, figure_row, plain_row, ratio_row
from bench.requests import ARGUMENT_VALUES, call_bodies, call_head, prepared, write_lines
from bench.rounds import Measurements, Schedule, Variant, reused, used_once
from bench.samples import Sample
from bench.signing import Key

CONDITIONS: Final = """\
nginx and Go move the bytes: no token, no policy, no audit. Countersign runs its whole pipeline
with 100 policies (ten apply: one reads a group, one an argument), 1,000 argument values and 64
tokens drawn at random, credentials by a real exchange and then cached, intent and outcome in the
durable audit spool and pushed to the authorization server, limits and timeouts on. It denies 1 %
of the calls, which then do not reach the MCP server.
  bearer  tokens without a key, at a server declared `require_bound: false`: the budget's terms
  DPoP    tokens bound to a key, which is the default: every call brings a new proof, so one ES256
          check and one replay look-up more that nothing can cache; no peer does anything like it
Tokens of both kinds are signed by the benchmark with the server's own key: nobody logged in."""
BEARER: Final = "Countersign, bearer"
PROVED: Final = "Countersign, DPoP"
NGINX: Final = "nginx"
GO: Final = "Go ReverseProxy"
FEW: Final = 1
MANY: Final = 16
WARM_SECONDS: Final = 2
PAIRS: Final = PEOPLE * ARGUMENT_VALUES
WALKS: Final = 8  # runs of that length at most to send every pair of person and argument once
SCHEDULE: Final = Schedule(rounds=5, seconds=2, connections=(FEW, MANY))
QUICK: Final = Schedule(rounds=1, seconds=1, connections=(FEW, MANY))


@dataclass(frozen=True, slots=True)
class Files:
    """The requests of this row, on disk."""

    directory: Path
    bodies: Path
    texts: tuple[str, ...]


def variants_of(
    workbench: Workbench, product: Product, upstream_port: int, say: Callable[[str], None]
) -> list[Variant]:
    """What can be measured here; a peer that cannot says why and is left out."""
    texts = call_bodies()
    bodies = write_lines(workbench.directory / "call-bodies.txt", texts)
    files = Files(workbench.directory, bodies, tuple(texts))
    tokens = product.tokens(product.endpoint, None)
    variants = []
    for name, start in GATEWAY_PEERS.items():
        port = free_port()
        try:
            server = start(workbench, port, upstream_port)
        except PeerUnavailableError as error:
            say(f"left out: {name}: {error}")
            continue
        url = f"http://127.0.0.1:{port}/{declared.SERVER}/mcp"
        variants.append(Variant(name, reused(_bearer_load(files, name, url, tokens)), server))
    ours = _bearer_load(files, BEARER, product.endpoint, tokens)
    variants.append(Variant(BEARER, reused(ours), product.gateway, product.authority))
    proved = used_once(workbench.directory / "proved-calls.txt", _proved_loads(files, product))
    variants.append(Variant(PROVED, proved, product.gateway, product.authority))
    return variants


def warm_up(variants: list[Variant], product: Product, workbench: Workbench) -> int:
    """Fill what a steady state has filled; how many pairs of person and argument were sent.

    Connections, callers and credentials by drawing as later; decisions by sending every pair.
    """
    tokens = product.tokens(product.endpoint, None)
    bodies = workbench.directory / "call-bodies.txt"
    length = len(call_bodies()[0])
    heads = [call_head(product.endpoint, length=length, token=each) for each in tokens[::RUNS]]
    walk = write_lines(workbench.directory / "walk-heads.txt", heads)
    ours = next(variant for variant in variants if variant.name == BEARER)
    sent = 0
    for _ in range(WALKS):
        load = walked(product.endpoint, walk, bodies, sent)
        walking = Variant("walk", reused(load), ours.server)
        walking.measure(connections=MANY, seconds=WARM_SECONDS, cores=workbench.cores)
        sent += walking.answered
        ours.cut_at_most += walking.cut_at_most
        if sent >= PAIRS:
            break
    ours.answered += sent
    for variant in variants:
        variant.measure(connections=MANY, seconds=WARM_SECONDS, cores=workbench.cores)
        variant.beside_us_per_request.clear()
    return min(sent, PAIRS)


def rows(measured: Measurements, variants: list[Variant], *, void: bool) -> list[Row]:
    """The budgets of this row, as far as their peers were measured."""
    few, many = measured[FEW], measured[MANY]
    beside = {
        variant.name: variant.beside_us_per_request
        for variant in variants
        if variant.beside_us_per_request
    }
    found = [
        ratio_row(budgets.GATEWAY_TO_GO, many, ours=BEARER, theirs=GO, figure=_rate, void=void),
        ratio_row(
            budgets.GATEWAY_TO_NGINX, many, ours=BEARER, theirs=NGINX, figure=_rate, void=void
        ),
        ratio_row(
            budgets.GATEWAY_P50_TO_NGINX, few, ours=BEARER, theirs=NGINX, figure=_p50, void=void
        ),
        ratio_row(budgets.GATEWAY_P99_TO_GO, many, ours=BEARER, theirs=GO, figure=_p99, void=void),
        ratio_row(budgets.PROVED_TO_GO, many, ours=PROVED, theirs=GO, figure=_rate, void=void),
        ratio_row(
            budgets.PROVED_TO_NGINX, many, ours=PROVED, theirs=NGINX, figure=_rate, void=void
        ),
        figure_row(budgets.GATEWAY_CPU, many, ours=BEARER, figure=_cpu, void=void),
        figure_row(budgets.PROVED_CPU, many, ours=PROVED, figure=_cpu, void=void),
        plain_row(budgets.AUTHORITY_CPU, beside, ours=BEARER, void=void),
    ]
    return [row for row in found if row is not None]


def calls_answered(upstream_port: int) -> int:
    """How many tool calls a stub has answered so far."""
    connection = http.client.HTTPConnection("127.0.0.1", upstream_port, timeout=5)
    try:
        connection.request("GET", "/count")
        return int(connection.getresponse().read())
    finally:
        connection.close()


def _bearer_load(files: Files, name: str, url: str, tokens: list[str]) -> Load:
    length = len(files.texts[0])
    heads = [call_head(url, length=length, token=token) for token in tokens]
    path = files.directory / f"heads-{name.replace(' ', '-')}.txt"
    return drawn(url, write_lines(path, heads), files.bodies)


def _proved_loads(files: Files, product: Product) -> Callable[[Path, int], Load]:
    key = Key()
    tokens = product.tokens(product.endpoint, key)
    length = len(files.texts[0])

    def make(path: Path, count: int) -> Load:
        now = int(time.time())
        draw = random.Random(now)  # noqa: S311 - draws requests, not secrets

        def request(_number: int) -> str:
            token = draw.choice(tokens)
            proof = key.proof(method="POST", uri=product.endpoint, now=now, token=token)
            head = call_head(product.endpoint, length=length, token=token, proof=proof)
            return head + draw.choice(files.texts)

        return once(product.endpoint, prepared(path, count, request))

    return make


def _rate(sample: Sample) -> float:
    return sample.per_second


def _p50(sample: Sample) -> float:
    return sample.p50_us


def _p99(sample: Sample) -> float:
    return sample.p99_us


def _cpu(sample: Sample) -> float:
    return sample.cpu_us_per_request
