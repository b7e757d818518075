"""Are the Gateways there and up to date, and do the servers behind them answer?

Pure on what was gathered: the confirmations of workers, what their audit sources said last, and
the Gateways' own reports on the servers. This server itself never connects to an MCP server: only
the gateway's place in the network counts.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final

from admin_console.checks.finding import Finding, fine, lasted, problem, warning
from audit_log.store import SourceStatus
from registry.acks import Ack
from registry.catalogue_tools import CatalogueTool, ToolState
from registry.live import LiveState
from registry.server_reports import ServerReport
from registry.snapshot import GatewayEntry, ServerEntry

GATEWAY: Final = "gateway"
SERVER: Final = "server"
CLOCK: Final = "clock"
SKEW_WARNING_MS: Final = 2_000
SKEW_PROBLEM_MS: Final = 30_000  # tokens and proofs are refused from here on
# A gateway looks every 60 s and after failures at most as often: three looks missed.
REPORT_IS_OLD_MS: Final = 180_000

_REASONS: Final[Mapping[str, str]] = {
    "upstream_unreachable": "start the server, or correct its url as seen from the gateway",
    "upstream_timeout": "the server is too slow or hangs; see its own log",
    "no discovery credential": "see `countersign audit search --type exchange.refused`",
    "HTTP 401": "the server refuses its credential: see its CredentialProvider and the issuer it"
    " trusts",
    "HTTP 403": "the server refuses its credential: see its CredentialProvider",
    "HTTP 404": "there is no MCP endpoint at this url: correct the McpServer's url",
}
_OTHERWISE: Final = "see the log of the gateway and of the server"


def gateway_findings(
    state: LiveState,
    alive: Sequence[Ack],
    sources: Mapping[str, SourceStatus],
    now_ms: int,
) -> Iterator[Finding]:
    """Every Gateway and each of its workers."""
    if not state.snapshot.gateways:
        yield warning(GATEWAY, "", "no Gateway is declared", "declare one with `countersign apply`")
    for gateway in state.snapshot.gateways.values():
        workers = [ack for ack in alive if ack.gateway == gateway.name]
        if not workers:
            yield _absent(gateway)
        for ack in workers:
            yield _worker(state, ack, sources.get(ack.worker), now_ms)
            yield _skew(ack)


def _absent(gateway: GatewayEntry) -> Finding:
    if not gateway.jwks:
        remedy = f"`countersign gateway join {gateway.name}`, then start `countersign mcp-gateway`"
        return problem(GATEWAY, gateway.name, "no process has ever joined", remedy)
    remedy = "start its `countersign mcp-gateway` again; it refuses every call until then"
    return problem(GATEWAY, gateway.name, "no process of it is heard of", remedy)


def _worker(state: LiveState, ack: Ack, source: SourceStatus | None, now_ms: int) -> Finding:
    heard_ms = now_ms - max(ack.received_at_ms, 0 if source is None else source.reported_at_ms)
    heard = f"heard of {max(heard_ms, 0) / 1000:.1f} s ago"
    behind = [
        f"{name} {had} of {newest}"
        for name, had, newest in (
            ("snapshot", ack.version, state.snapshot.version),
            ("revocations", ack.sequence, state.blocks.sequence),
        )
        if had < newest
    ]
    if behind:
        return warning(
            GATEWAY,
            ack.worker,
            f"{heard}, behind: {', '.join(behind)}",
            "look again in a few seconds; if it stays, see its log for control_channel_failed",
        )
    return fine(GATEWAY, ack.worker, f"{heard}, snapshot {ack.version}, revocation {ack.sequence}")


def _skew(ack: Ack) -> Finding:
    """Its clock against ours, when it last confirmed; the way here is in it."""
    off_ms = ack.received_at_ms - ack.applied_at_ms
    found = f"{off_ms / 1000:+.3f} s from this server's"
    remedy = "let an NTP client (chrony, systemd-timesyncd) keep both clocks"
    if abs(off_ms) >= SKEW_PROBLEM_MS:
        return problem(CLOCK, ack.worker, found, remedy)
    if abs(off_ms) >= SKEW_WARNING_MS:
        return warning(CLOCK, ack.worker, found, remedy)
    return fine(CLOCK, ack.worker, found)


def server_findings(
    state: LiveState,
    reports: Sequence[ServerReport],
    tools: Mapping[str, Sequence[CatalogueTool]],
    secrets: Collection[str],
    now_ms: int,
) -> Iterator[Finding]:
    """Every McpServer: who serves it, whether it answers, its credential and its tools."""
    served = {name for each in state.snapshot.gateways.values() for name in each.servers}
    for server in state.snapshot.servers.values():
        if server.name not in served:
            remedy = "name it in a Gateway's servers, or delete it"
            yield warning(SERVER, server.name, "no Gateway serves it", remedy)
            continue
        yield from _credential(server, secrets)
        yield from _reports(server, state, reports, now_ms)
        yield from _tools(server, tools.get(server.name, ()))


def _credential(server: ServerEntry, secrets: Collection[str]) -> Iterator[Finding]:
    secret = server.credential.settings.get("secret")
    if isinstance(secret, str) and secret not in secrets:
        found = f"its credential {server.credential.name} needs the secret {secret}, not stored yet"
        yield problem(SERVER, server.name, found, f"`countersign secret set {secret}`")


def _reports(
    server: ServerEntry, state: LiveState, reports: Sequence[ServerReport], now_ms: int
) -> Iterator[Finding]:
    serving = {
        each.name for each in state.snapshot.gateways.values() if server.name in each.servers
    }
    found = [each for each in reports if each.server == server.name and each.gateway in serving]
    for gateway in sorted(serving - {each.gateway for each in found}):
        text = f"{gateway} has not looked at it yet"
        yield warning(SERVER, server.name, text, f"see that the Gateway {gateway} runs")
    for report in found:
        yield _report(server, report, now_ms)


def _report(server: ServerEntry, report: ServerReport, now_ms: int) -> Finding:
    age_ms = now_ms - report.reported_at_ms
    if not report.is_reachable:
        since = lasted(now_ms - report.since_ms)
        text = f"{report.gateway} cannot list its tools for {since}: {report.error}"
        return problem(SERVER, server.name, f"{text} ({server.url})", _remedy(report.error))
    if age_ms > REPORT_IS_OLD_MS:
        text = f"{report.gateway} last looked at it {lasted(age_ms)} ago"
        return warning(SERVER, server.name, text, f"see that the Gateway {report.gateway} runs")
    era = f", {report.era} protocol" if report.era else ""
    return fine(SERVER, server.name, f"answers {report.gateway}{era}, looked {lasted(age_ms)} ago")


def _remedy(error: str) -> str:
    return next((text for word, text in _REASONS.items() if word in error), _OTHERWISE)


def _tools(server: ServerEntry, tools: Sequence[CatalogueTool]) -> Iterator[Finding]:
    waiting = [each.name for each in tools if each.state is ToolState.OBSERVED]
    changed = [each.name for each in tools if each.state is ToolState.CHANGED]
    gone = [each.name for each in tools if each.state is ToolState.GONE]
    review = f"`countersign tools approve {server.name}`"
    if waiting:
        found = f"{len(waiting)} tools wait for review: {_some(waiting)}"
        yield warning(SERVER, server.name, found, review)
    if changed:
        found = f"{len(changed)} tools changed and are not callable as offered: {_some(changed)}"
        yield warning(SERVER, server.name, found, review)
    if gone:
        found = f"{len(gone)} approved tools are not offered any more: {_some(gone)}"
        yield warning(SERVER, server.name, found, "see whether the server lost them on purpose")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")  # noqa: PLR2004 - a line
