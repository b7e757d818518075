"""HTTP over the local admin socket: the scope of each request says who is on the line.

A subclass of uvicorn's protocol (it exposes no peer itself). The peer is identified once, when it
connects, by the kernel (and once more when scripts have come to matter since); whether it is the
operator is asked anew for each request, because the declared agents may change meanwhile. Only an
accepted peer reaches the application as `scope["extensions"]["countersign.peer"]`; a refusal goes
in under another name, for the audit.
"""

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from idp_connectors.workload.peer import PeerIdentity, identify_peer
from idp_connectors.workload.process_facts import ProcessGoneError
from token_exchange.claims import Refusal

PEER_EXTENSION: Final = "countersign.peer"
PEER_REFUSAL_EXTENSION: Final = "countersign.peer_refusal"

PeerJudge = Callable[[PeerIdentity], Refusal | None]


def peer_http_protocol(
    judge: PeerJudge, with_script: Callable[[], bool]
) -> type[HttpToolsProtocol]:
    """The protocol class for `uvicorn.Config(http=...)` of a server on a Unix socket.

    `judge` says why a peer may not, or None (`local_operator_refusal`). `with_script` says
    whether scripts must be looked at (`attests_scripts`).
    """

    class PeerHttpProtocol(HttpToolsProtocol):
        """Identifies the peer of a connection and tells the application."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            self.knows_scripts = with_script()
            self.peer = _identify(transport, with_script=self.knows_scripts)
            super().connection_made(transport)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            if with_script() and not self.knows_scripts:
                # An agent described by its script may have been connected before it was declared.
                self.knows_scripts = True
                self.peer = _identify(self.transport, with_script=True)
            refusal = self.peer if isinstance(self.peer, Refusal) else judge(self.peer)
            extensions: dict[str, Any] = dict(self.scope.get("extensions") or {})
            if refusal is None:
                extensions[PEER_EXTENSION] = self.peer
            else:
                extensions[PEER_REFUSAL_EXTENSION] = refusal
            self.scope["extensions"] = extensions

    return PeerHttpProtocol


def _identify(transport: asyncio.Transport, *, with_script: bool) -> PeerIdentity | Refusal:
    wrapped = transport.get_extra_info("socket")
    try:
        with socket.socket(fileno=os.dup(wrapped.fileno())) as connection:
            if connection.family != socket.AF_UNIX:
                return _refused("the connection is not over a Unix socket")
            return identify_peer(connection, with_script=with_script, with_ancestors=True)
    except (ProcessGoneError, OSError) as cause:
        return _refused(str(cause))


def _refused(detail: str) -> Refusal:
    return Refusal(
        code="access_denied",
        description="This local process could not be identified.",
        detail=detail,
        rule="admin.local_peer",
    )
