"""Who is on a TLS connection: its certificates reach the application in the scope of each request.

uvicorn tells an application nothing of a client certificate. TLS has proved that the peer holds
the leaf's key, and found a path to *some* declared authority; whose it is, and whether it still
holds, is for the trust provider to say, at every request.
"""

import asyncio
import ssl
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

TLS_PEER_EXTENSION: Final = "countersign.tls_peer"


class TlsPeerProtocol(HttpToolsProtocol):
    """Puts the peer's certificates, in DER and the leaf first, into the scope."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A connection whose handshake is complete."""
        self._peer_certificates = certificates_of(transport.get_extra_info("ssl_object"))
        super().connection_made(transport)

    def on_message_begin(self) -> None:
        """A new request on it."""
        super().on_message_begin()
        extensions: dict[str, Any] = dict(self.scope.get("extensions") or {})
        extensions[TLS_PEER_EXTENSION] = self._peer_certificates
        self.scope["extensions"] = extensions


def certificates_of(connection: ssl.SSLObject | None) -> tuple[bytes, ...]:
    """What the peer sent, the leaf first; nothing if there is no TLS or no certificate."""
    if connection is None or connection.getpeercert(binary_form=True) is None:
        return ()
    public = getattr(connection, "get_unverified_chain", None)
    if public is not None:  # Python 3.13
        return tuple(public())
    # The same of the C object, which is there since 3.10 and gives certificates, not bytes.
    inner: Any = connection._sslobj  # type: ignore[attr-defined]  # noqa: SLF001
    return tuple(
        ssl.PEM_cert_to_DER_cert(each.public_bytes()) for each in inner.get_unverified_chain()
    )
