"""The memory of used proofs that all workers of a gateway share: Valkey's.

Going to it from a worker's own memory and back loses nothing: it refuses what a predecessor in the
same state directory may have accepted, and then removes that one's file, so that a later worker
with a memory of its own refuses whatever may have been used before its start.
"""

from collections.abc import Callable
from functools import partial

from countersign.settings import McpGatewaySettings, parse_valkey_url
from mcp_gateway.proof_memory import PROOFS_FILE, forget, taken_over
from mcp_gateway.shared_proofs import SharedProofs
from mcp_gateway.valkey_link import ValkeyLink, ValkeyServer


def shared_memory(
    settings: McpGatewaySettings,
    url: str,
    gateway: str,
    clock: Callable[[], float],
    random: Callable[[int], bytes],
) -> SharedProofs:
    """The memory of every worker of `gateway`."""
    path = settings.state_dir / PROOFS_FILE
    return SharedProofs(
        ValkeyLink(_server(settings, url)),
        random=random,
        issuer=settings.issuer,
        gateway=gateway,
        answer_seconds=settings.valkey_timeout_ms / 1000,
        taken_over=taken_over(path, clock()),
        on_taken_over=partial(forget, path),
    )


def _server(settings: McpGatewaySettings, url: str) -> ValkeyServer:
    parts = parse_valkey_url(url, allow_plaintext=settings.valkey_allow_plaintext)
    return ValkeyServer(
        host=parts.host,
        port=parts.port,
        socket=parts.socket,
        database=parts.database,
        username=parts.username,
        password_file=settings.valkey_password_file,
        is_tls=parts.is_tls,
        ca_file=settings.valkey_ca_file,
    )
