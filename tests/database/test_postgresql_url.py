"""Which PostgreSQL URLs are taken, and that TLS is not left to chance."""

import pytest
from psycopg.conninfo import make_conninfo
from psycopg.pq import Conninfo
from sqlalchemy import make_url

from database.engine import Database
from database.errors import UnsupportedDatabaseError
from database.postgresql_url import connection_options

REMOTE = "postgresql+psycopg://app:hunter2@db.example.com/countersign"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql+psycopg://app:hunter2@127.0.0.1", "names no database"),
        ("postgresql+psycopg://app:hunter2@/countersign", "names no host"),
        ("postgresql+psycopg:///countersign", "names no host"),
        ("postgresql+psycopg://app:hunter2@/countersign?host=", "names no host"),
        ("postgresql+psycopg://app:hunter2@/countersign?host=db.example.com,", "names no host"),
        (f"{REMOTE}?sslmode=prefer", "sslmode"),
        (f"{REMOTE}?sslmode=allow", "sslmode"),
        (f"{REMOTE}?sslmode=verify-full&sslmode=disable", "sslmode"),
        (f"{REMOTE}?options=-csynchronous_commit%3Doff", "options"),
        (f"{REMOTE}?target_session_attrs=any", "target_session_attrs"),
        (f"{REMOTE}?service=other", "service"),
        (f"{REMOTE}?connect_timeout=0", "connect_timeout"),
    ],
)
def test_postgresql_url_that_weakens_the_connection_is_refused_without_its_password(
    url: str, said: str
) -> None:
    with pytest.raises(UnsupportedDatabaseError, match=said) as refused:
        Database.open(url)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "mode"),
    [
        (REMOTE, "verify-full"),
        ("postgresql+psycopg://app@10.0.0.7/countersign", "verify-full"),
        ("postgresql+psycopg://app@localhost/countersign", "verify-full"),  # a name may be anybody
        ("postgresql+psycopg://app@/countersign?host=127.0.0.1,db.example.com", "verify-full"),
        ("postgresql+psycopg://app@/countersign?host=127.0.0.1&host=10.0.0.7", "verify-full"),
        ("postgresql+psycopg://app@127.0.0.1/countersign", "prefer"),
        ("postgresql+psycopg://app@[::1]/countersign", "prefer"),
        ("postgresql+psycopg://app@/countersign?host=/run/postgresql", "prefer"),
    ],
)
def test_postgresql_on_another_machine_is_verified_unless_told_otherwise(
    url: str, mode: str
) -> None:
    assert connection_options(make_url(url))["sslmode"] == mode


@pytest.mark.parametrize("mode", ["disable", "require", "verify-ca", "verify-full"])
def test_postgresql_tls_mode_that_was_said_is_used(mode: str) -> None:
    assert "sslmode" not in connection_options(make_url(f"{REMOTE}?sslmode={mode}"))


UNIGNORABLE = (
    "PGSERVICE",
    "PGREQUIREAUTH",  # an empty one would refuse every method, passwords too
    "PGSSLCERTMODE",
    "PGMINPROTOCOLVERSION",
    "PGMAXPROTOCOLVERSION",
)


@pytest.mark.requirement("trap-database-environment")
def test_postgresql_is_told_everything_the_environment_could_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = make_url("postgresql+psycopg://app@db.example.com/countersign?sslrootcert=/ca.pem")
    plain = connection_options(url)
    variables = {option.envvar.decode() for option in Conninfo.get_defaults() if option.envvar}
    for variable in variables - {*UNIGNORABLE}:
        monkeypatch.setenv(variable, "evil")
    options = connection_options(url)
    assert options == plain
    _, named = url.get_dialect()().create_connect_args(url)
    told = Conninfo.parse(make_conninfo(**{**named, **options}).encode())
    left = {each.envvar.decode() for each in told if each.envvar and each.val is None}
    assert left <= {*UNIGNORABLE}
    assert {option.val for option in told if option.keyword == b"sslrootcert"} == {b"/ca.pem"}


@pytest.mark.requirement("trap-database-environment")
@pytest.mark.parametrize("variable", UNIGNORABLE)
def test_postgresql_environment_that_cannot_be_ignored_is_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    known = {option.envvar for option in Conninfo.get_defaults()}
    if variable.encode() not in known:
        pytest.skip("this libpq does not read it")
    monkeypatch.setenv(variable, "evil")
    with pytest.raises(UnsupportedDatabaseError, match=variable):
        connection_options(make_url(REMOTE))
    monkeypatch.delenv(variable)
    assert connection_options(make_url(REMOTE))["sslmode"] == "verify-full"
