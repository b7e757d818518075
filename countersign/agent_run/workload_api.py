"""A JWT-SVID of this process from the SPIFFE Workload API.

The `spiffe` library and its gRPC are loaded when the first one is asked for, and it blocks.
"""

from typing import Final

from countersign.agent_run.errors import UnavailableError

CALL_SECONDS: Final = 5.0


def fetch_jwt_svid(address: str, audience: str, spiffe_id: str | None) -> str:
    """The JWT-SVID of this process for one audience, blocking.

    `spiffe_id` chooses among several identities; without it the Workload API's first is taken.

    Raises:
        UnavailableError: No answer, or this process has no such identity.
    """
    from spiffe import SpiffeId, WorkloadApiClient  # noqa: PLC0415 - see the module's docstring
    from spiffe.errors import PySpiffeError  # noqa: PLC0415

    try:
        subject = None if spiffe_id is None else SpiffeId(spiffe_id)
        with WorkloadApiClient(address, default_timeout=CALL_SECONDS) as client:
            return str(client.fetch_jwt_svid(audience={audience}, subject=subject).token)
    except (PySpiffeError, ValueError) as error:
        # The library's text names the cause ("no identity issued"), and no token.
        raise UnavailableError("no_proof", f"{address}: {error}") from error
