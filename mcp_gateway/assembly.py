"""The whole gateway process from a few plain values: what `countersign mcp-gateway` runs.

key = GatewayKey.load_or_create(state_dir / "gateway.key", secrets.token_bytes)
identity = load_identity(path) or await enrol(...)      # then save_identity(path, identity)
app = gateway_app(identity=identity, key=key, spool=spool, worker="gateway-1", ...)
await new_server(app, host=..., port=...).serve()
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from audit_log.spool import Spool
from mcp_gateway.app import Background, BackgroundWork, GatewayApp, create_app
from mcp_gateway.authority import HttpAuthority
from mcp_gateway.clock import Clock
from mcp_gateway.control_client import ControlClient
from mcp_gateway.control_session import ControlSession
from mcp_gateway.enrolment import GatewayIdentity
from mcp_gateway.eras.sealed_session import PURPOSE as SESSION_PURPOSE
from mcp_gateway.eras.sealed_session import SessionSeal
from mcp_gateway.gateway_key import GatewayKey
from mcp_gateway.other_workers import OtherWorkers
from mcp_gateway.parts import assemble
from mcp_gateway.proof_memory import Proofs
from mcp_gateway.upstream.either_era import EitherEraUpstream
from mcp_gateway.upstream.http import HttpUpstream


@dataclass(frozen=True, slots=True)
class Beside:
    """What a worker has beside others: its name, their sockets, the task that keeps the proofs."""

    name: str
    sockets: Path
    keep_proofs: Background


def gateway_app(
    *,
    identity: GatewayIdentity,
    key: GatewayKey,
    spool: Spool,
    worker: str,
    clock: Clock,
    monotonic: Clock,
    random: Callable[[int], bytes],
    proofs: Proofs,
    stdio_socket: Path | None = None,
    beside: Beside | None = None,
) -> GatewayApp:
    """The application of one worker over real connections.

    The lifespan ends the spool's source, pushes what is left and closes the connections; closing
    the spool's files is left to whoever opened it.
    """
    authority, connections = HttpAuthority(), HttpUpstream(stdio_socket=stdio_socket)
    upstream = EitherEraUpstream(connections, monotonic)
    parts = assemble(
        clock=clock,
        monotonic=monotonic,
        random=random,
        key=key,
        spool=spool,
        authority=authority,
        upstream=upstream,
        proofs=proofs,
        owner="" if beside is None else beside.name,
    )
    session = ControlSession(
        authority=authority,
        key=key,
        identity=identity,
        clock=clock,
        worker=worker,
        memory=lambda: proofs.memory,
    )
    control = ControlClient(session, parts, spool, worker)
    work = BackgroundWork(
        run=(control.run, upstream.run, *([] if beside is None else [beside.keep_proofs])),
        after=(control.finish, upstream.aclose, authority.aclose, connections.aclose),
    )
    others = None
    if beside is not None:
        seal = SessionSeal(key.derived(SESSION_PURPOSE), random)
        others = OtherWorkers(beside.sockets, beside.name, seal, parts.audit)
    return create_app(parts, work, others)
