"""`GET /doctor`: everything only this server can know of a deployment, checked at once.

Each check gathers in a thread or by one bounded request, has its own deadline and fails alone: a
check that breaks is a finding too. Checks run for one caller at a time, and whoever asks within
two seconds gets the same answer: a viewer cannot make this server hammer an identity provider.
Nothing in a finding is a secret. What only the outside sees (TLS, names, proxies) is for
`countersign doctor` itself.
"""

from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime
from functools import partial
from typing import Final

import anyio
import structlog
from anyio import to_thread

from admin_console.checks.control import (
    account_finding,
    admin_finding,
    audit_findings,
    database_findings,
    key_findings,
    policy_findings,
    provider_finding,
)
from admin_console.checks.enforcement import gateway_findings, server_findings
from admin_console.checks.finding import Finding, problem, warning
from admin_console.objects import moment
from admin_console.operation import AdminCall
from admin_console.parts import AdminParts
from admin_console.wire import Wire
from admin_console.workers import latest_acks

CHECK_SECONDS: Final = 8.0
AUDIT_SPAN_MS: Final = 7 * 86_400_000  # gaps older than a week were seen by earlier looks

_logger = structlog.get_logger(__name__)


class DoctorAnswer(Wire):
    """What was found, in the order of the checks.

    `now` is this server's clock. `published_keys` are the key ids its JWK Set has.
    """

    issuer: str
    now: datetime
    published_keys: list[str]
    findings: list[Finding]


async def doctor(call: AdminCall) -> DoctorAnswer:
    """Look, or repeat what was found a moment ago."""
    parts = call.parts

    def now_ms() -> int:
        return int(parts.clock() * 1000)

    async def look() -> DoctorAnswer:
        return await _look(parts, now_ms())

    answer = await parts.doctor.get(look, now_ms)
    if not isinstance(answer, DoctorAnswer):
        raise TypeError("the doctor's answer is made here only")
    return answer


async def _look(parts: AdminParts, now_ms: int) -> DoctorAnswer:
    checks: list[tuple[str, str, Callable[[], Awaitable[list[Finding]]]]] = [
        (name, "", partial(_in_thread, check, parts, now_ms)) for name, check in _CHECKS
    ]
    checks.append(("policies", "", partial(_policies, parts)))
    checks += [
        ("identity provider", name, partial(_provider, parts, name))
        for name in parts.live.snapshot.identity_providers
    ]
    found: list[list[Finding]] = [[] for _ in checks]

    async def run(place: int) -> None:
        found[place] = await _bounded(*checks[place])

    async with anyio.create_task_group() as tasks:
        for place in range(len(checks)):
            tasks.start_soon(run, place)
    return DoctorAnswer(
        issuer=parts.issuer,
        now=moment(now_ms),
        published_keys=sorted(parts.system.published_key_ids()),
        findings=[each for findings in found for each in findings],
    )


async def _bounded(
    name: str, subject: str, check: Callable[[], Awaitable[list[Finding]]]
) -> list[Finding]:
    try:
        with anyio.fail_after(CHECK_SECONDS):
            return await check()
    except TimeoutError:
        found = f"could not be checked within {CHECK_SECONDS:.0f} s"
        return [problem(name, subject, found, "see the load of this server and its database")]
    except Exception as error:  # outermost of its check: the others are still worth showing
        _logger.exception("admin.check_failed", check=name, subject=subject)
        found = f"could not be checked: {type(error).__name__}"
        return [problem(name, subject, found, "see this server's log")]


async def _in_thread(
    check: Callable[[AdminParts, int], Iterator[Finding]], parts: AdminParts, now_ms: int
) -> list[Finding]:
    return await to_thread.run_sync(lambda: list(check(parts, now_ms)), abandon_on_cancel=True)


async def _policies(parts: AdminParts) -> list[Finding]:
    snapshot = parts.live.snapshot
    compiled = await parts.system.policies(snapshot)
    state = await to_thread.run_sync(parts.registry.policy_state)
    return list(policy_findings(state, snapshot, compiles=compiled is not None))


async def _provider(parts: AdminParts, name: str) -> list[Finding]:
    accounts = parts.accounts().get(name)
    if accounts is not None:
        known = await accounts.accounts()
        return [account_finding(name, len(known), sum(each.disabled for each in known))]
    record = parts.live.snapshot.identity_providers[name]
    return [provider_finding(record, await parts.system.provider(record))]


def _database(parts: AdminParts, _now_ms: int) -> Iterator[Finding]:
    yield from database_findings(parts.system.database())
    if parts.live.is_stale(parts.system.lease_seconds):
        found = "this server has not read the registry for longer than the lease"
        yield problem("database", "registry", found, "see this server's log: gateways refuse calls")


def _keys(parts: AdminParts, now_ms: int) -> Iterator[Finding]:
    return key_findings(parts.system.keys(), now_ms)


def _gateways(parts: AdminParts, now_ms: int) -> Iterator[Finding]:
    sources = {each.source: each for each in parts.audit_store.sources()}
    return gateway_findings(parts.live.state, latest_acks(parts, now_ms), sources, now_ms)


def _servers(parts: AdminParts, now_ms: int) -> Iterator[Finding]:
    state = parts.live.state
    if not state.snapshot.servers:
        yield warning(
            "server", "", "no McpServer is declared", "declare one with `countersign apply`"
        )
    tools = {name: parts.catalogue.list(name) for name in state.snapshot.servers}
    secrets = {each.name for each in parts.vault.versions()}
    yield from server_findings(state, parts.server_reports.all(), tools, secrets, now_ms)


def _audit(parts: AdminParts, now_ms: int) -> Iterator[Finding]:
    complete = parts.audit_store.completeness_since(now_ms - AUDIT_SPAN_MS)
    return audit_findings(parts.spool.backlog_bytes, complete)


def _admins(parts: AdminParts, _now_ms: int) -> Iterator[Finding]:
    yield admin_finding(parts.live.snapshot.admin_roles)


_CHECKS: Final[tuple[tuple[str, Callable[[AdminParts, int], Iterator[Finding]]], ...]] = (
    ("database", _database),
    ("keys", _keys),
    ("admins", _admins),
    ("gateway", _gateways),
    ("server", _servers),
    ("audit", _audit),
)
