"""The token row: client_credentials at our token endpoint and at npm oidc-provider, and exchange.

Each request carries a client assertion signed with ES256 that is good once, and is answered with a
JWT signed with ES256. Ours binds every such token to a key, so each of our requests carries a DPoP
proof too: one signature check and one single use more. oidc-provider is measured without that and
with it. What was used once we keep in SQLite, committed before the answer; it keeps it in memory.
"""

import json
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bench import budgets, declared
from bench.load import Load, once
from bench.peers import PeerUnavailableError, Workbench, start_oidc_provider
from bench.product import Product, free_port
from bench.report import Row, figure_row, ratio_row
from bench.requests import call_arguments, credentials_request, exchange_request, prepared
from bench.rounds import Measurements, Schedule, Variant, used_once
from bench.samples import Sample
from bench.signing import Key
from mcp_gateway.audit_trail import argument_digest
from token_exchange.identifiers import new_id

CONDITIONS: Final = """\
client_credentials at both: a client assertion (ES256, good once) for a JWT (ES256), replay checks
on. Countersign issues no token without a key, so it checks a DPoP proof too: a second signature
and a second single use. It commits what was used to SQLite, and the issue to the durable audit
spool, before it answers; oidc-provider keeps what was used in memory and audits nothing.
  oidc-provider        without DPoP, the budget's terms; ours does more
  oidc-provider, DPoP  the same kinds of proof at both
  token exchange       ours alone, as a gateway sends it: assertion, subject token, policy, token"""
OURS: Final = "Countersign, DPoP"
EXCHANGE: Final = "Countersign, token exchange"
PLAIN: Final = "oidc-provider"
BOUND: Final = "oidc-provider, DPoP"
CONNECTIONS: Final = 16
WARM_RUNS: Final = 2  # a just-in-time compiler needs a few seconds
SCHEDULE: Final = Schedule(rounds=5, seconds=2, connections=(CONNECTIONS,))
QUICK: Final = Schedule(rounds=1, seconds=1, connections=(CONNECTIONS,))


def variants_of(
    workbench: Workbench, product: Product, upstream_port: int, say: Callable[[str], None]
) -> list[Variant]:
    """What can be measured here."""
    directory = workbench.directory
    variants = _provider_variants(workbench, say)
    client_id, key = product.enrolled_client()
    issuer = product.stack.issuer
    url = f"{issuer}/oauth/token"

    def own_token(_number: int) -> str:
        return credentials_request(
            url,
            issuer=issuer,
            client_id=client_id,
            key=key,
            resource=f"{issuer}/control/v1",
            is_bound=True,
        )

    tokens = product.tokens(product.client_endpoint, None)
    digests = [argument_digest(arguments) for arguments in call_arguments()]

    def exchange(number: int) -> str:
        return exchange_request(
            url,
            issuer=issuer,
            client_id=client_id,
            key=key,
            subject_token=tokens[number % len(tokens)],
            target=f"http://127.0.0.1:{upstream_port}/mcp",
            detail=_call_detail(digests[number % len(digests)]),
        )

    for name, make in ((OURS, own_token), (EXCHANGE, exchange)):
        path = directory / f"{name.split()[-1]}-requests.txt"
        variants.append(Variant(name, used_once(path, _loads(url, make)), product.authority))
    return variants


def warm_up(variants: list[Variant], workbench: Workbench) -> None:
    """Let everything reach its usual speed."""
    for _ in range(WARM_RUNS):
        for variant in variants:
            variant.measure(connections=CONNECTIONS, seconds=1, cores=workbench.cores)


def rows(measured: Measurements, *, void: bool) -> list[Row]:
    """The budgets of this row, as far as their peers were measured."""
    all_of = measured[CONNECTIONS]
    found = [
        ratio_row(
            budgets.TOKENS_TO_PROVIDER, all_of, ours=OURS, theirs=PLAIN, figure=_work, void=void
        ),
        ratio_row(
            budgets.BOUND_TO_PROVIDER, all_of, ours=OURS, theirs=BOUND, figure=_work, void=void
        ),
        ratio_row(
            budgets.EXCHANGE_TO_TOKENS, all_of, ours=EXCHANGE, theirs=OURS, figure=_work, void=void
        ),
        figure_row(budgets.TOKEN_CPU, all_of, ours=OURS, figure=_cpu, void=void),
    ]
    return [row for row in found if row is not None]


def _provider_variants(workbench: Workbench, say: Callable[[str], None]) -> list[Variant]:
    key, port = Key(), free_port()
    key_file = workbench.directory / "client.jwk"
    key_file.write_text(json.dumps(key.public_jwk | {"kid": key.thumbprint, "use": "sig"}))
    try:
        server = start_oidc_provider(workbench, port, key_file)
    except PeerUnavailableError as error:
        say(f"left out: oidc-provider: {error}")
        return []
    issuer = f"http://127.0.0.1:{port}"
    url = f"{issuer}/token"

    def variant(name: str, client_id: str, *, is_bound: bool) -> Variant:
        def make(_number: int) -> str:
            return credentials_request(
                url,
                issuer=issuer,
                client_id=client_id,
                key=key,
                resource=None,
                is_bound=is_bound,
            )

        path = workbench.directory / f"{client_id}-requests.txt"
        return Variant(name, used_once(path, _loads(url, make)), server)

    return [variant(PLAIN, "plain", is_bound=False), variant(BOUND, "bound", is_bound=True)]


def _loads(url: str, make: Callable[[int], str]) -> Callable[[Path, int], Load]:
    return lambda path, count: once(url, prepared(path, count, make))


def _call_detail(digest: str) -> str:
    detail = {
        "type": "mcp_tool_call",
        "server": declared.SERVER,
        "tool": declared.TOOL,
        "args_sha256": digest,
        "decision": new_id("dec", secrets.token_bytes),
    }
    return json.dumps([detail], separators=(",", ":"))


def _work(sample: Sample) -> float:
    return sample.per_cpu_second


def _cpu(sample: Sample) -> float:
    return sample.cpu_us_per_request
