"""Which PostgreSQL URLs we take, and how a connection to one is made.

TLS is not left to chance: to another machine it is `sslmode=verify-full` unless the URL says
otherwise in so many words, and the two modes that say neither yes nor no are refused. Options that
could weaken what `database.postgresql` sets on its connections are refused. A server that only
reads (a standby) is never used: what it says of revocations may be old.

The URL says it all. libpq would take from the environment (PGHOST, PGUSER, PGSSLROOTCERT ...)
whatever nobody told it, so it is told everything, and a URL must name its host.
"""

from ipaddress import ip_address
from typing import Any, Final

from psycopg.pq import Conninfo
from sqlalchemy import URL

from database.errors import UnsupportedDatabaseError

# libpq's names. Everything else is set by us or would change what a statement means.
ALLOWED_OPTIONS: Final = frozenset(
    {
        "channel_binding",
        "gssencmode",
        "host",  # a socket directory, or several hosts
        "krbsrvname",
        "load_balance_hosts",
        "passfile",
        "port",
        "require_auth",
        "ssl_max_protocol_version",
        "ssl_min_protocol_version",
        "sslcert",
        "sslcrl",
        "sslkey",
        "sslmode",
        "sslrootcert",
    }
)
# Of options without a default of libpq's own those for which an empty word is "not said". Not so of
# `require_auth`: an empty one refuses every method.
EMPTY_IS_UNSAID: Final = frozenset(
    {
        "gsslib",
        "hostaddr",
        "passfile",
        "password",
        "requirepeer",
        "ssl_max_protocol_version",
        "sslcert",
        "sslcrl",
        "sslcrldir",
        "sslkey",
        "sslrootcert",
        "user",
    }
)
TLS_MODES: Final = frozenset({"disable", "require", "verify-ca", "verify-full"})

CONNECT_SECONDS: Final = 3  # libpq: per address
# A peer that vanished without a word (power, network) is noticed after these.
UNACKNOWLEDGED_MS: Final = 4_000
KEEPALIVE: Final = {"keepalives_idle": 2, "keepalives_interval": 1, "keepalives_count": 2}


def connection_options(url: URL) -> dict[str, Any]:
    """What psycopg is given beside user, password, host, port and database.

    Raises:
        UnsupportedDatabaseError: The URL names no database or host, or an option we do not take;
            or the environment says something that libpq cannot be told to ignore (PGSERVICE).
    """
    if not url.database:
        raise UnsupportedDatabaseError("the database URL names no database")
    if not all(_hosts(url)):
        raise UnsupportedDatabaseError(
            "the database URL names no host: USER@HOST/NAME, or /NAME?host=/SOCKET/DIRECTORY"
        )
    unknown = sorted(set(url.query) - ALLOWED_OPTIONS)
    if unknown:
        raise UnsupportedDatabaseError(f"the database URL has options we do not take: {unknown}")
    mode = url.query.get("sslmode")
    if mode is not None and mode not in TLS_MODES:
        raise UnsupportedDatabaseError(
            f"sslmode is one of {', '.join(sorted(TLS_MODES))}: the others may or may not encrypt"
        )
    options: dict[str, Any] = {
        "application_name": "countersign",
        "client_encoding": "utf8",
        "connect_timeout": CONNECT_SECONDS,
        "keepalives": 1,
        "target_session_attrs": "read-write",
        "tcp_user_timeout": UNACKNOWLEDGED_MS,
        # A prepared statement would fail once after a newer release changed its table.
        "prepare_threshold": None,
        **KEEPALIVE,
    }
    if mode is None:
        options["sslmode"] = "prefer" if _is_this_machine(url) else "verify-full"
    return {**_not_from_the_environment({*_named(url), *options}), **options}


def _named(url: URL) -> frozenset[str]:
    """Libpq's names of what the URL says."""
    parts = {"user": url.username, "password": url.password, "port": url.port}
    said = {name for name, value in parts.items() if value is not None}
    return frozenset({"host", "dbname", *said, *url.query})


def _not_from_the_environment(told: set[str]) -> dict[str, str]:
    """Of every option that libpq would otherwise look for in the environment, its own default.

    Raises:
        UnsupportedDatabaseError: The environment says one that cannot be overridden by a default.
    """
    rest: dict[str, str] = {}
    for option in Conninfo.get_defaults():
        name = option.keyword.decode()
        if option.envvar is None or name in told:
            continue
        if option.compiled is not None:
            rest[name] = option.compiled.decode()
        elif name in EMPTY_IS_UNSAID:
            rest[name] = ""
        elif option.val is not None:
            variable = option.envvar.decode()
            raise UnsupportedDatabaseError(f"unset {variable}: the database URL says it all")
    return rest


def _hosts(url: URL) -> tuple[str, ...]:
    """Every host the URL names; an empty one where it names none."""
    given = url.query.get("host")
    listed = (given,) if isinstance(given, str) else given or ()
    named = (*listed, *(() if url.host is None else (url.host,)))
    return tuple(host for each in named or ("",) for host in each.split(","))


def _is_this_machine(url: URL) -> bool:
    return all(_is_local(host) for host in _hosts(url))


def _is_local(host: str) -> bool:
    if host.startswith(("/", "@")):  # a Unix socket
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
