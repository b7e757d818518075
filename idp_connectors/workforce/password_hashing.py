"""Argon2id in threads, a few at a time: hashing must neither stall the loop nor fill the memory.

Decides nothing about accounts. A refusal to queue (`HashingBusy`) is the caller's to report: a
login that cannot be checked soon is refused rather than kept waiting without bound.
"""

import functools
import secrets
from base64 import b64encode
from collections.abc import Callable
from typing import Final, TypeVar

import anyio
import argon2
from anyio import to_thread
from argon2.exceptions import InvalidHashError, VerificationError

T = TypeVar("T")

# RFC 9106 §4, second recommended option: 64 MiB, three passes, four lanes.
RECOMMENDED: Final = argon2.profiles.RFC_9106_LOW_MEMORY
HASHES_AT_ONCE: Final = 2  # 128 MiB, and leaves the request path a core
MAXIMUM_WAITING: Final = 32  # about two seconds of work; beyond that, refuse


class HashingBusyError(Exception):
    """More passwords are waiting to be hashed than this process accepts."""


class PasswordHashing:
    """Hashes and verifies passwords; share one per process."""

    def __init__(
        self,
        parameters: argon2.Parameters = RECOMMENDED,
        *,
        at_once: int = HASHES_AT_ONCE,
        maximum_waiting: int = MAXIMUM_WAITING,
    ) -> None:
        self._hasher = argon2.PasswordHasher.from_parameters(parameters)
        self._limiter = anyio.CapacityLimiter(at_once)
        self._maximum_waiting = maximum_waiting
        # What an unknown account is verified against, so that it costs the same time.
        self.nobody = _of_no_password(parameters)

    async def hash(self, password: str) -> str:
        """A new salted hash in the PHC string format."""
        return await self._run(functools.partial(self._hasher.hash, password))

    async def verify(self, password_hash: str, password: str) -> bool:
        """Whether the password is the one that was hashed. A damaged hash matches nothing."""
        return await self._run(functools.partial(self._matches, password_hash, password))

    def is_outdated(self, password_hash: str) -> bool:
        """Whether the hash was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(password_hash)

    def require_capacity(self) -> None:
        """Ask before counting an attempt.

        Raises:
            HashingBusyError: Too many passwords are waiting already.
        """
        if self._limiter.statistics().tasks_waiting >= self._maximum_waiting:
            raise HashingBusyError

    def _matches(self, password_hash: str, password: str) -> bool:
        try:
            return self._hasher.verify(password_hash, password)
        except (VerificationError, InvalidHashError):
            return False

    async def _run(self, work: Callable[[], T]) -> T:
        return await to_thread.run_sync(work, limiter=self._limiter)


def _of_no_password(parameters: argon2.Parameters) -> str:
    """A hash whose digest is random: no password is known to have it.

    To verify against it takes what it takes for any other; to make it takes nothing.
    """
    costs = f"m={parameters.memory_cost},t={parameters.time_cost},p={parameters.parallelism}"
    salt, digest = (
        b64encode(secrets.token_bytes(length)).rstrip(b"=").decode()
        for length in (parameters.salt_len, parameters.hash_len)
    )
    return f"$argon2id$v={parameters.version}${costs}${salt}${digest}"
