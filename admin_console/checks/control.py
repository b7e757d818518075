"""Is what this server decides and records by in order? Pure on what was gathered."""

from collections.abc import Iterator, Sequence
from typing import Final

from admin_console.checks.finding import Finding, fine, problem, warning
from admin_console.facts import DatabaseFacts, KeyFacts, ProviderFacts
from audit_log.completeness import Completeness
from registry.policy_activation import ACTIVE, PolicyState
from registry.snapshot import AdminRoleRecord, ProviderRecord, RegistrySnapshot

DATABASE: Final = "database"
KEYS: Final = "keys"
POLICIES: Final = "policies"
AUDIT: Final = "audit"
ADMINS: Final = "admins"
IDENTITY_PROVIDER: Final = "identity provider"
DAY_MS: Final = 86_400_000
OLD_KEY_DAYS: Final = 730
SLOW_READ_MS: Final = 250.0
LONG_BACKLOG_BYTES: Final = 16 * 1024 * 1024  # of 256 MiB that fit

_UNREACHABLE: Final[dict[str, str]] = {
    "unreachable": "see that it runs and that this machine can reach its issuer",
    "timeout": "it is too slow or a firewall drops the connection",
    "tls": "its certificate does not verify: set ca_bundle to its authority, or renew it",
    "address_refused": "its address is private: list the host in private_hosts if that is meant",
    "issuer": "its metadata names another issuer: write that one, byte for byte",
    "status": "there is no OpenID provider at this issuer: correct it",
    "redirected": "it redirects: write the issuer it redirects to",
    "not_json": "there is no OpenID provider at this issuer: correct it",
    "secret_missing": "`countersign secret set` the secret that client_secret names",
}


def database_findings(facts: DatabaseFacts) -> Iterator[Finding]:
    """Reachable, migrated, durable."""
    subject = f"{facts.kind} {facts.version}"
    if facts.schema != facts.head:
        found = f"schema {facts.schema or 'none'}, this release needs {facts.head}"
        yield problem(DATABASE, subject, found, "restart the authorization server: it migrates")
    if facts.kind == "sqlite" and facts.journal != "wal":
        found = f"journal mode {facts.journal}, not wal"
        remedy = "move the database to a local file system that supports WAL"
        yield problem(DATABASE, subject, found, remedy)
    if facts.read_ms > SLOW_READ_MS:
        found = f"one small read took {facts.read_ms:.0f} ms"
        yield warning(DATABASE, subject, found, "see the load of the database and its disk")
    else:
        yield fine(DATABASE, subject, f"schema {facts.schema}, a read took {facts.read_ms:.1f} ms")


def key_findings(keys: Sequence[KeyFacts], now_ms: int) -> Iterator[Finding]:
    """Each purpose has exactly one active key, and it is not ancient."""
    for purpose in sorted({key.purpose for key in keys}):
        of_purpose = [key for key in keys if key.purpose == purpose]
        ages = {
            state: [
                (now_ms - key.created_at_ms) // DAY_MS for key in of_purpose if key.state == state
            ]
            for state in ("active", "next", "retired")
        }
        found = ", ".join(
            f"{state} {' and '.join(f'{days} d' for days in found)}"
            for state, found in ages.items()
            if found
        )
        if not ages["active"]:
            yield problem(
                KEYS, purpose, f"no active key ({found})", "restart the server: it makes one"
            )
        elif max(ages["active"]) > OLD_KEY_DAYS:
            remedy = "plan to replace it: rotation by command comes with a later release"
            yield warning(KEYS, purpose, found, remedy)
        else:
            yield fine(KEYS, purpose, found)


def provider_finding(record: ProviderRecord, facts: ProviderFacts) -> Finding:
    """Can people of this identity provider log in now?"""
    if facts.code:
        remedy = _UNREACHABLE.get(facts.code, "see its log, and ours")
        return problem(IDENTITY_PROVIDER, record.name, f"{facts.code}: {facts.detail}", remedy)
    return fine(IDENTITY_PROVIDER, record.name, facts.detail)


def account_finding(name: str, accounts: int, disabled: int) -> Finding:
    """Is there anybody who could log in with a password kept here?"""
    if accounts == disabled:
        found = "no account can log in" if accounts else "no account yet"
        return warning(IDENTITY_PROVIDER, name, found, "`countersign account add NAME`")
    return fine(IDENTITY_PROVIDER, name, f"local accounts: {accounts - disabled}")


def policy_findings(
    state: PolicyState, snapshot: RegistrySnapshot, *, compiles: bool
) -> Iterator[Finding]:
    """Which set decides, and what a newer one waits for."""
    version = state.live_version
    if not compiles:
        found = f"set {version} does not compile here: everything is denied"
        yield problem(POLICIES, "", found, "`countersign apply` the policies again to see why")
        return
    own = [each for each in snapshot.policies.documents if not each.name.startswith("shipped/")]
    if not own and state.state == ACTIVE:
        found = "no policy is declared: every tool call is denied"
        yield warning(POLICIES, "", found, "see docs/guides/policies.md for a first one")
    elif own:
        yield fine(POLICIES, f"set {version}", f"active, {len(own)} documents")
    if state.waiting_for:
        servers = sorted({each.partition("/")[0] for each in state.waiting_for})
        found = f"a newer set waits for {', '.join(state.waiting_for)}; the one before decides"
        remedy = "; ".join(f"`countersign tools approve {server}`" for server in servers)
        yield warning(POLICIES, "newest", found, f"{remedy}, or correct the name in the policy")


def audit_findings(backlog_bytes: int, complete: Completeness) -> Iterator[Finding]:
    """Nothing missing, nothing piling up."""
    found = f"{backlog_bytes // 1024} KiB of events on their way to the store"
    if backlog_bytes > LONG_BACKLOG_BYTES:
        remedy = "see the load of the database; a full spool refuses everything"
        yield warning(AUDIT, "spool", found, remedy)
    else:
        yield fine(AUDIT, "spool", found)
    for source in complete.silent:
        remedy = f"start it again, or `countersign audit close-source {source}` if it is gone"
        yield warning(AUDIT, source, "has not ended and is not heard of", remedy)
    for gap in complete.gaps:
        found = f"events {gap.first} to {gap.last} are missing"
        remedy = "see the spool directory of its process; what was deleted there stays missing"
        yield problem(AUDIT, gap.source, found, remedy)
    for source in complete.own_uncounted:
        found = "has more events than are counted at once: a hole in older ones would not show"
        remedy = "`countersign audit search` says what makes so many; of less time all are counted"
        yield warning(AUDIT, source, found, remedy)
    for source in complete.unknown:
        found = "there are events of it, and no record of the source"
        yield problem(AUDIT, source, found, "somebody changed the tables: restore a backup")
    if complete.complete:
        yield fine(AUDIT, "store", "complete: every source, every event")
    elif not (complete.silent or complete.gaps or complete.unknown):
        yield fine(AUDIT, "store", "complete as far as it was counted; there is too much for all")


def admin_finding(roles: Sequence[AdminRoleRecord]) -> Finding:
    """Somebody must be able to change things without a shell on the server."""
    admins = sum(each.role == "admin" for each in roles)
    if admins:
        return fine(ADMINS, "", f"{admins} with the role admin")
    return warning(
        ADMINS,
        "",
        "nobody has the role admin",
        "`countersign login`, then `countersign setup` with the code in run_dir/setup-code",
    )
