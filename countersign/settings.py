"""Every knob of every process, once, typed, with its unit; the only reader of the environment.

A value comes from the command line, else from `COUNTERSIGN_<NAME>`, else from the default, which
is the strict choice. All problems are reported at once, at start.
"""

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StringConstraints, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from countersign.public_url import is_loopback_literal, require_public_url
from countersign.trusted_authorities import require_certificates

HTTP_PORT: Final = 80
VALKEY_PORT: Final = 6379


@dataclass(frozen=True, slots=True)
class ValkeyUrl:
    """What a URL of Valkey says: `host` and `port`, or `socket`, the path of a Unix socket."""

    host: str
    port: int
    socket: str | None
    database: int
    username: str | None
    is_tls: bool


def parse_valkey_url(url: str, *, allow_plaintext: bool) -> ValkeyUrl:
    """Take a URL of Valkey apart.

    Raises:
        ValueError: it is none, has a password in it, or would be spoken to in the clear.
    """
    parts = urlsplit(url)
    if parts.password is not None:
        raise ValueError("valkey_url must hold no password: use valkey_password_file")
    if parts.query or parts.fragment:
        raise ValueError("valkey_url must have no query and no fragment")
    if parts.scheme == "unix" and parts.path.startswith("/") and parts.hostname is None:
        return ValkeyUrl("", 0, parts.path, 0, parts.username, is_tls=False)
    if parts.scheme not in {"valkey", "valkeys", "redis", "rediss"} or not parts.hostname:
        raise ValueError("valkey_url must be valkeys://, valkey:// or unix:// with a place")
    is_tls = parts.scheme in {"valkeys", "rediss"}
    if not (is_tls or allow_plaintext or is_loopback_literal(parts.hostname)):
        raise ValueError("valkey_url must be valkeys:// for a server that is not on loopback")
    database = parts.path.removeprefix("/") or "0"
    if not (database.isascii() and database.isdigit()):
        raise ValueError("valkey_url must end in the number of a database, or in nothing")
    port = VALKEY_PORT if parts.port is None else parts.port
    return ValkeyUrl(parts.hostname, port, None, int(database), parts.username, is_tls=is_tls)


PublicUrl = Annotated[str, AfterValidator(require_public_url)]
DocumentHost = Annotated[
    str,
    StringConstraints(pattern=r"^(\*|(\*\.)?[a-z0-9]([a-z0-9.\-]*[a-z0-9])?(:[1-9][0-9]{0,4})?)$"),
]


class ProcessSettings(BaseSettings):
    """What every process has."""

    model_config = SettingsConfigDict(env_prefix="COUNTERSIGN_", frozen=True, extra="ignore")

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "console"] = Field(
        default="auto", description="auto: JSON unless standard error is a terminal"
    )


class AuthzServerSettings(ProcessSettings):
    """The authorization server: authority and control."""

    issuer: PublicUrl = "http://127.0.0.1:8700"
    listen_host: str = "127.0.0.1"
    listen_port: int = Field(
        default=8700, ge=1, le=65535, description="follows the port of a loopback issuer"
    )
    data_dir: Path = Field(default=Path("countersign-data"), description="database and audit spool")
    keys_dir: Path = Field(
        default=Path("countersign-keys"),
        description="key-encryption keys, 0600; keep it out of the data directory's backups",
    )
    run_dir: Path = Field(default=Path("countersign-run"), description="Unix sockets")
    database_url: str | None = Field(
        default=None,
        repr=False,  # it may hold a password
        description="`sqlite:///PATH` or `postgresql+psycopg://USER@HOST/NAME`, see "
        "guides/postgresql.md; default: SQLite in the data directory",
    )
    lease_seconds: float = Field(
        default=3.0, ge=1.0, le=30.0, description="a gateway without news this long refuses"
    )
    audit_durability: Literal["process", "power"] = Field(
        default="process", description="process survives kill -9; power awaits fsync"
    )
    attestation_socket_mode: int = Field(
        default=0o666, description="who may ask to be attested; the kernel says who they are"
    )
    shutdown_seconds: float = Field(default=5.0, gt=0, le=120)
    mtls_base_url: PublicUrl | None = Field(
        default=None, description="https URL of the listener for client certificates (RFC 8705)"
    )
    mtls_listen_port: int | None = Field(default=None, ge=1, le=65535)
    mtls_certificate_file: Path | None = Field(
        default=None, description="its certificate chain, PEM; read again when it changes"
    )
    mtls_key_file: Path | None = Field(default=None, description="the key of that certificate")

    client_metadata_hosts: frozenset[DocumentHost] = Field(
        default=frozenset(("*",)),
        description="whose client id metadata documents are read: `host`, `host:port`, "
        "`*.example.com`, or `*` for every public host; empty: nobody's",
    )
    client_metadata_blocked_hosts: frozenset[DocumentHost] = Field(
        default=frozenset(), description="the same, of those that are never read"
    )
    client_metadata_private_hosts: frozenset[DocumentHost] = Field(
        default=frozenset(),
        description="exact `host` or `host:port` of documents at private addresses",
    )
    client_metadata_ca_bundle: Path | None = Field(
        default=None, description="PEM file of the authorities of those private hosts"
    )

    @model_validator(mode="after")
    def _private_hosts_are_exact(self) -> Self:
        if any(host.startswith("*") for host in self.client_metadata_private_hosts):
            message = "client_metadata_private_hosts must be exact hosts, without `*`"
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _mtls_whole_or_not_at_all(self) -> Self:
        files = (self.mtls_certificate_file, self.mtls_key_file)
        given = {value is None for value in (self.mtls_base_url, self.mtls_listen_port, *files)}
        if len(given) > 1:
            message = "mtls_base_url, _listen_port, _certificate_file and _key_file go together"
            raise ValueError(message)
        if self.mtls_base_url is not None and not self.mtls_base_url.startswith("https://"):
            message = "mtls_base_url must be https: the listener speaks nothing else"
            raise ValueError(message)
        return self

    @model_validator(mode="before")
    @classmethod
    def _listen_where_the_issuer_says(cls, given: dict[str, object]) -> dict[str, object]:
        """Clients go to the issuer: on loopback nothing else usually listens there."""
        parts = urlsplit(str(given.get("issuer", "")))
        if "listen_port" not in given and parts.scheme == "http":
            with contextlib.suppress(ValueError):  # the issuer's own check says what is wrong
                return {**given, "listen_port": parts.port or HTTP_PORT}
        return given

    @model_validator(mode="after")
    def _keys_apart_from_data(self) -> Self:
        data, keys = self.data_dir.absolute(), self.keys_dir.absolute()
        if keys == data or data in keys.parents:
            message = (
                "keys_dir must lie outside data_dir: a copied database must not carry its keys"
            )
            raise ValueError(message)
        return self

    @property
    def database(self) -> str:
        """The SQLAlchemy URL."""
        return self.database_url or f"sqlite:///{self.data_dir.absolute() / 'countersign.db'}"


class ValkeySettings(ProcessSettings):
    """The memory that the workers of a Gateway share (guides/scaling.md)."""

    valkey_url: str | None = Field(
        default=None,
        description="`valkeys://USER@HOST:PORT/DATABASE`, plain `valkey://` on loopback, or "
        "`unix://PATH`; default: each Gateway is served by one worker, with a memory of its own",
    )
    valkey_password_file: Path | None = Field(
        default=None, description="read again at every connection"
    )
    valkey_ca_file: Path | None = Field(
        default=None, description="who signs its certificate, PEM; default: the system's"
    )
    valkey_allow_plaintext: bool = Field(
        default=False, description="plain `valkey://` beyond loopback: whoever is there can replay"
    )
    valkey_timeout_ms: int = Field(
        default=20, ge=1, le=1000, description="a call whose proof is not known by then is refused"
    )
    gateway_workers: int = Field(
        default=1, ge=1, le=32, description="processes behind one port; above 1 needs valkey_url"
    )

    @model_validator(mode="after")
    def _workers_share_a_memory(self) -> Self:
        if self.gateway_workers > 1 and self.valkey_url is None:
            message = (
                "gateway_workers above 1 needs COUNTERSIGN_VALKEY_URL: workers must share the"
                " memory of used proofs (docs/guides/scaling.md)"
            )
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _valkey_url_is_safe(self) -> Self:
        if self.valkey_url is not None:
            parse_valkey_url(self.valkey_url, allow_plaintext=self.valkey_allow_plaintext)
        return self


class McpGatewaySettings(ValkeySettings):
    """A gateway process, or several workers of it."""

    issuer: PublicUrl = "http://127.0.0.1:8700"
    gateway_host: str = "127.0.0.1"
    gateway_port: int = Field(default=8701, ge=1, le=65535)
    state_dir: Path = Field(
        default=Path("countersign-gateway"), description="its key (0600) and its audit spool"
    )
    audit_durability: Literal["process", "power"] = "process"
    shutdown_seconds: float = Field(default=5.0, gt=0, le=120)
    stdio_socket: Path | None = Field(
        default=None, description="of `countersign stdio-host`, for servers with a stdio:// URL"
    )


class StdioHostSettings(ProcessSettings):
    """The host of stdio servers, one per machine."""

    stdio_servers: Path = Field(
        default=Path("countersign-stdio.yaml"),
        description="which commands it may run; nobody but you or root may write to it",
    )
    stdio_socket: Path = Field(
        default=Path("countersign-run/stdio.sock"), description="where the gateway finds it, 0600"
    )
    stdio_gateway_user: str | None = Field(
        default=None, description="the gateway's user, if it is not the host's own"
    )
    stdio_servers_may_operate: bool = Field(
        default=False,
        description="run servers also as the user of an authorization server on this machine: each "
        "of them is then its operator; only to try things out",
    )
    run_dir: Path = Field(
        default=Path("countersign-run"), description="of an authorization server on this machine"
    )
    data_dir: Path = Field(default=Path("countersign-data"), description="the same")
    keys_dir: Path = Field(default=Path("countersign-keys"), description="the same")

    def variables(self, names: Iterable[str]) -> dict[str, str]:
        """Those of the host's own environment that a server is declared to get."""
        return {name: os.environ[name] for name in names if name in os.environ}


class ServeSettings(AuthzServerSettings, McpGatewaySettings):
    """`countersign serve`: both processes on one machine."""

    gateway: str = Field(default="main", description="the Gateway object this machine serves")


class ClientSettings(ProcessSettings):
    """The command line as a client of the admin API."""

    issuer: PublicUrl = "http://127.0.0.1:8700"
    config_dir: Path = Field(
        default=Path("~/.config/countersign"), description="the login's key and token, 0600"
    )
    admin_socket: Path | None = Field(
        default=None, description="the server's Unix socket, for an operator on its machine"
    )
    timeout_seconds: float = Field(default=10.0, gt=0, le=120)
    ca_file: Annotated[Path, AfterValidator(require_certificates)] | None = Field(
        default=None,
        description="PEM of the authorities believed over https; default: the system's",
    )


def environment_for_child() -> dict[str, str]:
    """The environment a supervised process inherits: ours, unchanged."""
    return dict(os.environ)
