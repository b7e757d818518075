"""Reads the admin API of a realm, as the event loop sees it: in threads, and one login for many.

After any failure the login is thrown away: the next question logs in anew, so a Keycloak that was
restarted is found again. Left out: writing. The service account needs `view-events` and no other.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import anyio
import anyio.from_thread
import anyio.to_thread

from idp_connectors.workforce.person_changes import ChangesUnavailableError
from outbound.fetcher import Fetcher, FetchPolicy

if TYPE_CHECKING:  # loaded in a thread, when a realm is asked for the first time
    from idp_connectors.workforce.keycloak_admin import RealmAdmin

MAXIMUM_THREADS: Final = 4  # of one connector; more wait


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminAccess:
    """Which realm, and the service account that may read it."""

    base_url: str  # without /realms/...
    realm: str
    client_id: str
    client_secret: str

    def __repr__(self) -> str:
        """Without the secret."""
        return f"AdminAccess({self.base_url!r}, {self.realm!r}, {self.client_id!r})"


def realm_of(issuer: str) -> tuple[str, str] | None:
    """The base URL and the realm of a Keycloak issuer, or None if it is no such issuer."""
    before, separator, realm = issuer.rpartition("/realms/")
    is_plain = separator and realm and "/" not in realm and not urlsplit(issuer).query
    return (before, realm) if is_plain else None


class KeycloakDirectory:
    """The admin API of one realm, read as one service account."""

    def __init__(
        self,
        access: Callable[[], Coroutine[Any, Any, AdminAccess]],
        fetcher: Fetcher,
        policy: FetchPolicy,
    ) -> None:
        self._access = access
        self._fetcher = fetcher
        self._policy = policy
        self._admin: RealmAdmin | None = None
        self._threads = anyio.CapacityLimiter(MAXIMUM_THREADS)

    async def admin_events(self, query: Mapping[str, object]) -> tuple[Mapping[str, Any], ...]:
        """One page of admin events.

        Raises:
            ChangesUnavailableError: see there.
        """
        return _events(await self._call(lambda admin: admin.admin_events(query)))

    async def user_events(self, query: Mapping[str, object]) -> tuple[Mapping[str, Any], ...]:
        """One page of user events.

        Raises:
            ChangesUnavailableError: see there.
        """
        return _events(await self._call(lambda admin: admin.user_events(query)))

    async def events_config(self) -> Mapping[str, Any]:
        """Which events the realm keeps at all.

        Raises:
            ChangesUnavailableError: see there.
        """
        config = await self._call(lambda admin: admin.events_config())
        if not isinstance(config, dict):
            raise ChangesUnavailableError("malformed")
        return config

    async def _call(self, ask: Callable[["RealmAdmin"], object]) -> object:
        loop = asyncio.get_running_loop()
        try:
            return await anyio.to_thread.run_sync(
                partial(self._ask, loop, ask), limiter=self._threads
            )
        except ChangesUnavailableError:
            self._admin = None
            raise

    def _ask(
        self, loop: asyncio.AbstractEventLoop, ask: Callable[["RealmAdmin"], object]
    ) -> object:
        from idp_connectors.workforce.keycloak_admin import RealmAdmin  # noqa: PLC0415

        if self._admin is None:
            access = anyio.from_thread.run(self._access)
            self._admin = RealmAdmin(access, loop, self._fetcher, self._policy)
        return ask(self._admin)


def _events(answer: object) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(answer, list) or not all(isinstance(event, dict) for event in answer):
        raise ChangesUnavailableError("malformed")
    return tuple(answer)
