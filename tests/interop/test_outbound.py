"""The guarded fetcher against real sockets: what a hostile server can do, and a good one."""

import asyncio
import datetime as dt
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from outbound.fetcher import Fetcher, FetchError, FetchPolicy

pytestmark = [pytest.mark.processes, pytest.mark.anyio]

HOST = "idp.test"
GOOD = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 8\r\n\r\n{"a": 1}'
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Server:
    """A listening server: what was asked, and how many connections it saw."""

    def __init__(self) -> None:
        self.port = 0
        self.connections = 0
        self.asked: list[bytes] = []

    def url(self, host: str = HOST, scheme: str = "https") -> str:
        return f"{scheme}://{host}:{self.port}/document?x=%2F"

    def policy(
        self, ca: Path | None = None, *, host: str = HOST, seconds: float = 2.0
    ) -> FetchPolicy:
        return FetchPolicy(
            private_hosts=frozenset((f"{host}:{self.port}",)),
            ca_bundle=None if ca is None else str(ca),
            total_seconds=seconds,
            maximum_bytes=65_536,
        )


@asynccontextmanager
async def serving(
    answer: bytes | Handler,
    context: ssl.SSLContext | None = None,
    address: str = "127.0.0.1",
    port: int = 0,
) -> AsyncIterator[Server]:
    server = Server()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        try:
            server.asked.append(await reader.readuntil(b"\r\n\r\n"))
            if isinstance(answer, bytes):
                writer.write(answer)
                await writer.drain()
            else:
                await answer(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(handle, address, port, ssl=context)
    server.port = listening.sockets[0].getsockname()[1]
    async with listening:
        yield server


def at(*addresses: str) -> Callable[[str, int], Awaitable[Sequence[str]]]:
    """A resolver with one address after the other, as a rebinding name server would answer."""
    left = list(addresses)

    async def resolve(_host: str, _port: int) -> Sequence[str]:
        return [left.pop(0) if len(left) > 1 else left[0]]

    return resolve


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    """A self-signed certificate for `idp.test`, and a server context that has it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    start = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=36_500))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    bundle, private = folder / "ca.pem", folder / "key.pem"
    bundle.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(bundle, private)
    return bundle, context


async def code_of(fetcher: Fetcher, url: str, policy: FetchPolicy) -> str:
    with pytest.raises(FetchError) as caught:
        await fetcher.get(url, policy)
    return caught.value.code


async def test_document_over_verified_tls(authority: tuple[Path, ssl.SSLContext]) -> None:
    bundle, context = authority
    async with serving(GOOD, context) as server:
        fetched = await Fetcher(at("127.0.0.1")).get(server.url(), server.policy(bundle))
    assert fetched.json_object() == {"a": 1}
    asked = server.asked[0].decode()
    assert asked.startswith("GET /document?x=%2F HTTP/1.1\r\n")
    assert f"Host: {HOST}:{server.port}\r\n" in asked
    assert "Accept-Encoding: identity\r\n" in asked
    assert "cookie" not in asked.lower()


async def test_form_is_posted_once(authority: tuple[Path, ssl.SSLContext]) -> None:
    bundle, context = authority

    async def hang_up(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        """Close without a word."""

    async with serving(hang_up, context) as server:
        with pytest.raises(FetchError, match="unreachable"):
            await Fetcher(at("127.0.0.1")).post_form(
                server.url(), {"code": "a b"}, server.policy(bundle)
            )
        assert server.connections == 1


@pytest.mark.requirement("attack-3")
async def test_certificate_for_another_name_or_authority_is_refused(
    authority: tuple[Path, ssl.SSLContext],
) -> None:
    bundle, context = authority
    async with serving(GOOD, context) as server:
        other = server.policy(bundle, host="other.test")
        assert await code_of(Fetcher(at("127.0.0.1")), server.url("other.test"), other) == "tls"
        unknown = server.policy()
        assert await code_of(Fetcher(at("127.0.0.1")), server.url(), unknown) == "tls"
        assert server.asked == []


@pytest.mark.requirement("attack-3")
@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::"])  # noqa: S104 - refused
async def test_private_address_that_is_not_listed_sees_no_connection(address: str) -> None:
    async with serving(GOOD) as server:
        policy = FetchPolicy(private_hosts=frozenset(("elsewhere.test",)))
        assert await code_of(Fetcher(at(address)), server.url(), policy) == "address_refused"
        literal = f"[{address}]" if ":" in address else address
        for scheme in ("https", "http"):
            url = server.url(literal, scheme)
            assert await code_of(Fetcher(), url, policy) == "address_refused"
    assert server.connections == 0


@pytest.mark.requirement("attack-3")
async def test_real_resolver_that_leads_to_loopback_sees_no_connection() -> None:
    async with serving(GOOD) as server:
        fetcher = Fetcher()
        url = server.url("localhost")
        assert await code_of(fetcher, url, FetchPolicy()) == "address_refused"
        await fetcher.aclose()
    assert server.connections == 0


@pytest.mark.requirement("attack-3")
async def test_name_that_changes_its_address_is_connected_to_where_it_was_vetted(
    authority: tuple[Path, ssl.SSLContext],
) -> None:
    bundle, context = authority
    async with (
        serving(GOOD, context) as vetted,
        serving(GOOD, context, "127.0.0.2", vetted.port) as later,
    ):
        rebinding = at("127.0.0.1", "127.0.0.2")
        await Fetcher(rebinding).get(vetted.url(), vetted.policy(bundle))
        assert (vetted.connections, later.connections) == (1, 0)


@pytest.mark.requirement("attack-3")
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirect_is_not_followed(status: int) -> None:
    async with serving(GOOD) as inside:
        answer = f"HTTP/1.1 {status} Moved\r\nLocation: {inside.url('127.0.0.1', 'http')}\r\n\r\n"
        async with serving(answer.encode()) as server:
            policy = server.policy(host="127.0.0.1")
            url = server.url("127.0.0.1", "http")
            assert await code_of(Fetcher(), url, policy) == "redirected"
    assert inside.connections == 0


async def _endless(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b"x" * 65_536)
        await writer.drain()


async def _drip(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.02)


async def _drip_headers(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while True:
        writer.write(b"y")
        await writer.drain()
        await asyncio.sleep(0.02)


async def _silence(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()


@pytest.mark.requirement("attack-3")
@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (_endless, "too_large"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10485760\r\n\r\n", "too_large"),
        (_drip, "timeout"),
        (_drip_headers, "timeout"),
        (_silence, "timeout"),
        (b"HTTP/1.1 200 OK\r\nX-Long: " + b"z" * 20_000 + b"\r\n\r\n", "unreachable"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 0\r\n\r\n", "encoding"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", "unreachable"),
        (b"not http at all\r\n\r\n", "unreachable"),
    ],
)
async def test_hostile_reply_costs_its_bound(answer: bytes | Handler, code: str) -> None:
    async with serving(answer) as server:
        policy = server.policy(host="127.0.0.1", seconds=0.5)
        started = asyncio.get_running_loop().time()
        assert await code_of(Fetcher(), server.url("127.0.0.1", "http"), policy) == code
        assert asyncio.get_running_loop().time() - started < 2


async def test_environment_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(GOOD) as proxy, serving(GOOD) as server:
        for name in ("http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        policy = server.policy(host="127.0.0.1")
        await Fetcher().get(server.url("127.0.0.1", "http"), policy)
        assert (server.connections, proxy.connections) == (1, 0)
