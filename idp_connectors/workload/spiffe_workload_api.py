"""The bundle of a trust domain from the Workload API: the one file that knows the `spiffe` library.

The agent on this machine (a Unix socket) gives the bundle of its own trust domain and of those it
federates with. The library blocks: each question runs in a thread, with a deadline of its own,
and one question at a time; a socket that hangs holds one thread and nobody else. The library and
its gRPC are loaded when the first such provider is asked, not before.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc.jwk import ECKey, RSAKey

from idp_connectors.workload.spiffe_bundle import (
    JWT_SVID_USE,
    BundleError,
    SpiffeBundle,
    jwt_keys,
)
from outbound.fetch_cache import FetchCache
from outbound.fetcher import FetchError

CALL_SECONDS: Final = 3.0
THREAD_SECONDS: Final = 10.0
REFRESH_SECONDS: Final = 30.0


class WorkloadApiBundle:
    """What the Workload API at `socket` says of one trust domain."""

    def __init__(self, socket: str, trust_domain: str, clock: Callable[[], float]) -> None:
        self._socket = socket
        self._trust_domain = trust_domain
        self._clock = clock
        self._cache: FetchCache[tuple[SpiffeBundle, float]] = FetchCache(clock)

    async def bundle(self, *, key_id: object = None) -> SpiffeBundle:
        """The bundle, asked for anew when it is old or has no key of this id.

        Raises:
            BundleError: The API gives none.
        """

        def suffices(known: tuple[SpiffeBundle, float]) -> bool:
            has_key = key_id is None or known[0].jwt_keys.find(key_id) is not None
            return has_key and self._clock() < known[1]

        try:
            known = await self._cache.get(self._socket, self._ask, suffices=suffices)
        except FetchError as error:
            raise BundleError(f"the Workload API: {error.code}") from error
        return known[0]

    async def _ask(self) -> tuple[SpiffeBundle, float]:
        try:
            async with asyncio.timeout(THREAD_SECONDS):
                bundle = await asyncio.to_thread(_bundle_of, self._socket, self._trust_domain)
        except TimeoutError as error:
            raise FetchError("timeout") from error
        return bundle, self._clock() + REFRESH_SECONDS


def _bundle_of(socket: str, trust_domain: str) -> SpiffeBundle:
    """Ask the API, blocking.

    Raises:
        FetchError: No answer, or it knows no such trust domain.
    """
    from spiffe import TrustDomain, WorkloadApiClient  # noqa: PLC0415 - see the module's docstring
    from spiffe.errors import PySpiffeError  # noqa: PLC0415

    try:
        domain = TrustDomain(trust_domain)
        with WorkloadApiClient(socket, default_timeout=CALL_SECONDS) as client:
            jwt_bundle = client.fetch_jwt_bundles().get_bundle_for_trust_domain(domain)
            x509_bundle = client.fetch_x509_bundles().get_bundle_for_trust_domain(domain)
    except PySpiffeError as error:
        raise FetchError("unreachable", type(error).__name__) from error
    if jwt_bundle is None or x509_bundle is None:
        raise FetchError("status", "the trust domain is not known there")
    keys = [
        _jwk(key_id, key)
        for key_id, key in jwt_bundle.jwt_authorities.items()
        if isinstance(key, RSAPublicKey | EllipticCurvePublicKey)  # others verify nothing here
    ]
    return SpiffeBundle(
        jwt_keys=jwt_keys(keys), x509_authorities=tuple(x509_bundle.x509_authorities)
    )


def _jwk(key_id: str, key: RSAPublicKey | EllipticCurvePublicKey) -> dict[str, Any]:
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    model = RSAKey if isinstance(key, RSAPublicKey) else ECKey
    return {**model.import_key(pem).as_dict(private=False), "kid": key_id, "use": JWT_SVID_USE}
