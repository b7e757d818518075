"""The listener for client certificates: its TLS, kept as new as the authorities and its own file.

The handshake demands a certificate with a path to an authority of some declared trust domain;
never the system's. That is a first gate only: each request is judged again by the one trust domain
its certificate names. A new context is made when an authority or the own certificate changes, and
every new connection takes the newest; nothing is resumed, so each connection proves its key.
Without any authority no handshake succeeds.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import structlog

REFRESH_SECONDS: Final = 2.0

_logger = structlog.get_logger(__name__)

Authorities = Callable[[], Awaitable[frozenset[bytes]]]


class MtlsContext:
    """Gives each new connection the newest TLS context; `run` keeps it new.

    Raises:
        OSError: The own certificate or key cannot be used.
    """

    def __init__(self, certificate: Path, key: Path, authorities: Authorities) -> None:
        self._certificate = certificate
        self._key = key
        self._authorities = authorities
        self._made_of: object = None
        try:
            self._newest = self._context(frozenset())
        except OSError as error:  # ssl.SSLError is one
            raise OSError(f"cannot use {certificate} with {key}: {error.strerror}") from error

    def entry(self) -> ssl.SSLContext:
        """What the server is started with: it hands every connection on to the newest context.

        OpenSSL calls back for each ClientHello, also for one that names no server.
        """
        entry = self._context(frozenset())

        def choose(connection: ssl.SSLObject, _name: str | None, _entry: ssl.SSLContext) -> None:
            connection.context = self._newest

        entry.sni_callback = choose
        return entry

    async def run(self) -> None:
        """Look for changes until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(REFRESH_SECONDS)

    async def refresh(self) -> None:
        """Make a new context if the authorities or the own certificate changed.

        A pair of files that does not fit together (it is being replaced) leaves the last context:
        what it still trusts beyond the authorities of now ends at the judgement of each request.
        """
        try:
            authorities = await self._authorities()
            files = (self._certificate, self._key)
            made_of = (authorities, *(path.stat().st_mtime_ns for path in files))
            if made_of == self._made_of:
                return
            self._newest = await asyncio.to_thread(self._context, authorities)
        except (OSError, ssl.SSLError) as error:
            _logger.warning("mtls.certificate_unusable", error=type(error).__name__)
            return
        self._made_of = made_of

    def _context(self, authorities: frozenset[bytes]) -> ssl.SSLContext:
        """A context that trusts exactly these authorities (DER).

        Raises:
            OSError: the own certificate or key cannot be read, or they do not belong together.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # TLS 1.3 alone: certificates travel encrypted, and there is no renegotiation.
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        # An authority of a bundle is an anchor, also one that another authority signed.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.num_tickets = 0
        # With a passphrase of ours OpenSSL does not ask the terminal for one.
        context.load_cert_chain(self._certificate, self._key, password="")
        for authority in sorted(authorities):
            try:
                context.load_verify_locations(cadata=authority)
            except ssl.SSLError as error:  # one domain's trouble is not the others'
                _logger.warning("mtls.authority_unusable", error=error.reason)
        return context
