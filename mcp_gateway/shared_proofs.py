"""The used proofs of all workers of one Gateway, in Valkey: one atomic script for each proof.

A worker serves with a memory only while the authority lets it: every worker declares the memory it
found (`memory`, the name in its mark), the authority lets a second worker in only with the same
one, and `accept` says which that is. So two workers that see two servers (one was moved, failed
over or restarted in between) never both serve, whatever each of them believes.

Fails closed: no answer within the limit, an error, a memory that is lost or not accepted yet is
`ProofsUnavailableError`. `run` keeps the connection: again and again, with growing pauses.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Protocol

import structlog

from mcp_gateway import valkey_scripts as scripts
from mcp_gateway.proof_memory import ProofsUnavailableError, ProofUse
from mcp_gateway.valkey_link import ANSWER_SECONDS, FAILURES, LinkDownError, Words
from mcp_gateway.valkey_scripts import Mark
from token_exchange.compact_jws import encode_base64url

CHECK_SECONDS: Final = 1.0
FIRST_PAUSE_SECONDS: Final = 0.05
LONGEST_PAUSE_SECONDS: Final = 2.0
_NAME_BYTES: Final = 16
_USES: Final = {
    scripts.FIRST: ProofUse.FIRST,
    scripts.USED: ProofUse.REPLAYED,
    scripts.BLIND: ProofUse.BEFORE_MEMORY,
    scripts.CLOCK: ProofUse.OUT_OF_TIME,
}

_logger = structlog.get_logger(__name__)


class Link(Protocol):
    """What `ValkeyLink` is."""

    async def ask(
        self, script: str, keys: tuple[str, ...], arguments: Words, seconds: float
    ) -> bytes:
        """What a script answers, or `LinkDownError`."""

    async def run(self, up: Callable[[], Awaitable[None]]) -> None:
        """Answer until the connection fails."""


class SharedProofs:
    """Proofs of the workers of one Gateway of one issuer. Times are NumericDate seconds."""

    def __init__(
        self,
        link: Link,
        *,
        random: Callable[[int], bytes],
        issuer: str,
        gateway: str,
        answer_seconds: float,
        taken_over: int = 0,
        on_taken_over: Callable[[], None] = lambda: None,
    ) -> None:
        """Take the link, the source of names, whose proofs these are, and a call's patience.

        Proofs issued up to `taken_over` may have been used elsewhere; `on_taken_over` is called
        once this memory refuses them.
        """
        self._link = link
        self._random = random
        self._answer_seconds = answer_seconds
        self._taken_over = taken_over
        self._on_taken_over = on_taken_over
        self._mark_key = mark_key(issuer, gateway)
        self._mark: Mark | None = None
        self._is_usable = False
        self._accepted: str | None = None
        self._is_known = asyncio.Event()
        self._look = asyncio.Event()

    @property
    def memory(self) -> str | None:
        """The name of the memory seen last: what is declared to the authority."""
        return None if self._mark is None else self._mark.name

    async def known(self) -> None:
        """Wait for the first memory."""
        await self._is_known.wait()

    def accept(self, memory: str | None) -> None:
        """From now on proofs of that memory may be used, if it is the one seen."""
        self._accepted = memory

    def problem(self, now: int) -> str | None:
        """Why a fresh proof would be refused now."""
        if self._mark is None or not self._is_usable:
            return "proof_memory_away"
        if self._accepted != self._mark.name or now <= self._mark.blind_until:
            return "starting"
        return None

    async def use(self, replay_key: str, issued_at: int, expires_at: int, now: int) -> ProofUse:
        """Use a proof, wherever it may have been used.

        Raises:
            ProofsUnavailableError: that is not known, or cannot be kept.
        """
        del expires_at, now  # the server's clock says when it is forgotten
        mark = self._mark
        if mark is None or not self._is_usable:
            raise ProofsUnavailableError("the shared memory is away")
        # INVARIANT: no proof is accepted on a memory the authority has not compared.
        if self._accepted != mark.name:
            raise ProofsUnavailableError("the shared memory is not accepted by the authority yet")
        keys = (self._mark_key, f"{self._mark_key}:{mark.name}:{replay_key}")
        words = (mark.text, str(issued_at))
        try:
            verdict = await self._link.ask(scripts.USE, keys, words, self._answer_seconds)
        except LinkDownError as error:
            raise ProofsUnavailableError(str(error)) from error
        if verdict in _USES:
            return _USES[verdict]
        if self._mark is mark:
            self._is_usable = False
        self._look.set()
        raise ProofsUnavailableError("the shared memory was lost")

    async def run(self) -> None:
        """Keep the connection and look after the memory, until cancelled."""
        pause, was_usable = FIRST_PAUSE_SECONDS, False
        while True:
            try:
                await self._link.run(self._watch)
            except FAILURES as error:
                was_usable = self._is_usable
                tell = _logger.error if was_usable else _logger.warning
                tell("valkey_away", error=type(error).__name__, text=str(error)[:200])
            except Exception:  # outermost of its task: without it the whole worker would end
                was_usable = self._is_usable
                _logger.exception("valkey_link_broken")
            self._is_usable = False
            pause = FIRST_PAUSE_SECONDS if was_usable else min(pause * 2, LONGEST_PAUSE_SECONDS)
            await asyncio.sleep(pause)

    async def _watch(self) -> None:
        """Look at the memory now, whenever it was lost, and every second."""
        while True:
            self._look.clear()
            await self._find()
            with suppress(TimeoutError):
                async with asyncio.timeout(CHECK_SECONDS):
                    await self._look.wait()

    async def _find(self) -> None:
        """Find the memory, or begin one.

        Raises:
            TimeoutError, ValueError: there is none to be had.
        """
        name = self._random(_NAME_BYTES).hex()
        words = (name, str(self._taken_over))
        try:
            answer = await self._link.ask(scripts.OPEN, (self._mark_key,), words, ANSWER_SECONDS)
        except LinkDownError as error:
            raise TimeoutError(str(error)) from error
        if answer == scripts.EVICTS:
            raise ValueError("the server may evict keys: set maxmemory-policy noeviction")
        mark = Mark.parse(answer)
        if self._mark is None or mark.text != self._mark.text:
            _logger.info("proof_memory_found", memory=mark.name, began=mark.name == name)
        self._mark, self._is_usable = mark, True
        self._is_known.set()
        if self._taken_over:
            self._on_taken_over()


def mark_key(issuer: str, gateway: str) -> str:
    """Where the mark lies, and before what the proofs: several issuers may share a server."""
    whose = hashlib.sha256(f"{issuer} {gateway}".encode()).digest()[:_NAME_BYTES]
    return f"countersign:proofs:{encode_base64url(whose)}"
