"""Fetches and keeps the metadata documents of clients that nobody registered.

Anybody can name any URL here without proving anything, so in this order: the URL is one spelling of
one host → the operator's hosts (`DocumentHosts`) → what is kept, good or bad → a place among the
documents waited for, and a fetch left in this minute for that host → one fetch per URL at a time,
by a fetcher of its own, so that slow strangers wait for each other and nobody else for them. A
connection is made to allowed addresses only (`outbound.fetcher`).

A document is kept for as long as its headers say (RFC 9111 §5.2), within our bounds; after that it
is fetched again or not used: what its owner withdrew does not live on. That a fetch failed
is kept for a moment too, which is no caching of the answer (draft §5.2) but a pause. Both memories
are bounded, in each process; the least recently used goes first.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, Final

from authz_server.clients.metadata_document import (
    ClientDocument,
    host_of,
    is_document_url,
    read_document,
    refused,
)
from outbound.fetcher import Fetched, Fetcher, FetchError, FetchPolicy
from outbound.jwks import JwksCache
from outbound.public_keys import ForeignKeys
from token_exchange.claims import Refusal

MAXIMUM_BYTES: Final = 16_384  # draft §8.7 advises 5 KB; keys make some larger
MAXIMUM_CONCURRENT: Final = 8
MAXIMUM_WAITING: Final = 64
WAITING_A_HOST: Final = 8
MAXIMUM_DOCUMENTS: Final = 1_024
MAXIMUM_FAILURES: Final = 1_024
MAXIMUM_HOSTS: Final = 1_024
FETCHES_A_MINUTE: Final = 20  # of one host: nobody makes us hammer somebody else
MINIMUM_FRESH_SECONDS: Final = 60  # a login outlives it, and needs the document twice
USUAL_FRESH_SECONDS: Final = 300
MAXIMUM_FRESH_SECONDS: Final = 86_400
PAUSE_SECONDS: Final = 15.0
WINDOW_SECONDS: Final = 60.0

UNAVAILABLE: Final = "temporarily_unavailable"
BUSY: Final = Refusal(
    UNAVAILABLE,
    "Too many unknown programs are asking at the moment. Try again in a minute.",
    "no fetch left",
    "client_document.busy",
)
_LATER: Final = frozenset(("unreachable", "timeout"))
_SAID: Final[Mapping[str, str]] = {
    # One sentence for both: who asks must not learn which names lead into our network.
    "address_refused": "its description cannot be reached",
    "unreachable": "its description cannot be reached",
    "timeout": "its description takes too long to arrive",
    "too_large": "its description is too long",
    "redirected": "its description is not where it says, but elsewhere",
    "status": "there is no description at its address",
    "tls": "its site cannot prove who it is",
    "encoding": "its description is not plain JSON",
    "not_json": "its description is not plain JSON",
}


@dataclass(frozen=True, slots=True)
class DocumentHosts:
    """Whose documents are fetched: the operator's word, never a request's.

    `allowed`: exact `host` or `host:port`, `*.example.com` for the hosts below one, or `*` for
    every one. `blocked` in the same form, and it wins. `private`: exact, at a private address;
    those are verified against `ca_bundle` where there is one.
    """

    allowed: frozenset[str] = frozenset()
    blocked: frozenset[str] = frozenset()
    private: frozenset[str] = frozenset()
    ca_bundle: str | None = None

    def policy(self, authority: str) -> FetchPolicy | None:
        """How to fetch from `host` or `host:port`, or None if that is not for us to do."""
        names = {authority, authority.partition(":")[0]}
        if _is_among(names, self.blocked) or not _is_among(names, self.allowed):
            return None
        is_private = not names.isdisjoint(self.private)
        return FetchPolicy(
            private_hosts=self.private,
            ca_bundle=self.ca_bundle if is_private else None,
            maximum_bytes=MAXIMUM_BYTES,
        )


@dataclass(frozen=True, slots=True)
class _Kept:
    """A document and how long it is good, or why there is none and for how long we do not ask."""

    found: ClientDocument | Refusal
    until: float


class ClientDocuments:
    """The documents of one process. `clock` is seconds."""

    def __init__(
        self,
        fetcher: Fetcher | None = None,
        hosts: DocumentHosts | None = None,
        issuer: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetcher = fetcher
        self._jwks = None if fetcher is None else JwksCache(fetcher, clock)
        self._hosts = hosts or DocumentHosts()
        self._issuer = issuer
        self._clock = clock
        self._good: OrderedDict[str, _Kept] = OrderedDict()
        self._bad: OrderedDict[str, _Kept] = OrderedDict()
        self._fetching: dict[str, asyncio.Lock] = {}
        self._fetches: OrderedDict[str, deque[float]] = OrderedDict()

    @property
    def reads_any_host(self) -> bool:
        """Whether there is any host whose documents are read."""
        return self._fetcher is not None and bool(self._hosts.allowed)

    async def document(self, client_id: str) -> ClientDocument | Refusal:
        """The client at this URL, as its document says now or said a moment ago."""
        if not is_document_url(client_id):
            return refused("url", "its client_id is no plain https URL of a document")
        policy = self._hosts.policy(host_of(client_id))
        if policy is None or self._fetcher is None:
            return refused("host", "its site is not one whose programs are let in here")
        kept = self._kept(client_id)
        if kept is not None:
            return kept
        if client_id not in self._fetching and not self._has_place(_machine_of(client_id)):
            return BUSY
        return await self._fetched_once(client_id, policy, self._fetcher)

    async def keys(self, document: ClientDocument, key_id: object) -> ForeignKeys | Refusal:
        """The keys a client authenticates with; fetched from its own origin if it says so."""
        if document.keys.listed is not None:
            return document.keys.listed
        policy = self._hosts.policy(host_of(document.client.client_id))
        if document.keys.uri is None or policy is None or self._jwks is None:
            return refused("keys", "it has no keys")
        try:
            return await self._jwks.keys(document.keys.uri, policy, kid=key_id)
        except FetchError as error:
            return _as_refusal(error, "keys")

    def _has_place(self, host: str) -> bool:
        """Whether one more document may be waited for; who waits for the same one needs none."""
        waiting_there = sum(_machine_of(each) == host for each in self._fetching)
        return waiting_there < WAITING_A_HOST and len(self._fetching) < MAXIMUM_WAITING

    def _kept(self, client_id: str) -> ClientDocument | Refusal | None:
        for memory in (self._good, self._bad):
            kept = memory.get(client_id)
            if kept is not None and self._clock() < kept.until:
                memory.move_to_end(client_id)
                return kept.found
        return None

    async def _fetched_once(
        self, client_id: str, policy: FetchPolicy, fetcher: Fetcher
    ) -> ClientDocument | Refusal:
        lock = self._fetching.setdefault(client_id, asyncio.Lock())
        try:
            async with lock:
                kept = self._kept(client_id)  # somebody may have fetched it meanwhile
                if kept is not None:
                    return kept
                if not self._may_fetch_from(_machine_of(client_id)):
                    return BUSY
                return await self._fetched(client_id, policy, fetcher)
        finally:
            if not lock.locked():
                self._fetching.pop(client_id, None)

    async def _fetched(
        self, client_id: str, policy: FetchPolicy, fetcher: Fetcher
    ) -> ClientDocument | Refusal:
        found: ClientDocument | Refusal
        seconds = 0
        try:
            fetched = await fetcher.get(client_id, policy)
            found = read_document(client_id, _document_in(fetched), self._issuer)
            seconds = fresh_seconds(fetched.headers)
        except FetchError as error:
            found = _as_refusal(error, error.code)
        except RecursionError:
            found = refused("not_json", "its description is nested too deep")
        self._keep(client_id, found, seconds)
        return found

    def _keep(self, client_id: str, found: ClientDocument | Refusal, seconds: int) -> None:
        self._good.pop(client_id, None)
        self._bad.pop(client_id, None)
        if isinstance(found, Refusal):
            memory, most, until = self._bad, MAXIMUM_FAILURES, self._clock() + PAUSE_SECONDS
        else:
            memory, most, until = self._good, MAXIMUM_DOCUMENTS, self._clock() + seconds
        while len(memory) >= most:
            memory.popitem(last=False)
        memory[client_id] = _Kept(found, until)

    def _may_fetch_from(self, host: str) -> bool:
        """Count one fetch of this host, if there is one left in this minute."""
        now = self._clock()
        times = self._fetches.get(host)
        if times is None:
            while len(self._fetches) >= MAXIMUM_HOSTS:
                self._fetches.popitem(last=False)
            times = self._fetches[host] = deque(maxlen=FETCHES_A_MINUTE)
        self._fetches.move_to_end(host)
        while times and now - times[0] >= WINDOW_SECONDS:
            times.popleft()
        if len(times) >= FETCHES_A_MINUTE:
            return False
        times.append(now)
        return True


def fresh_seconds(headers: Mapping[str, str]) -> int:
    """How long a document may be used, by its headers and within our bounds (RFC 9111 §5.2.2)."""
    directives = {
        name.strip().lower(): value.strip().strip('"')
        for name, _, value in (
            part.partition("=") for part in headers.get("cache-control", "").split(",")
        )
    }
    if not directives.keys().isdisjoint({"no-store", "no-cache"}):
        return MINIMUM_FRESH_SECONDS
    said, age = _number(directives.get("max-age", "")), _number(headers.get("age", ""))
    seconds = USUAL_FRESH_SECONDS if said is None else said - (age or 0)
    return max(MINIMUM_FRESH_SECONDS, min(MAXIMUM_FRESH_SECONDS, seconds))


def _machine_of(client_id: str) -> str:
    """The host without its port: one machine has many ports, and one budget."""
    return host_of(client_id).partition(":")[0]


def _number(text: str) -> int | None:
    is_number = text.isascii() and text.isdigit() and len(text) < 10  # noqa: PLR2004 - 31 years
    return int(text) if is_number else None


def _document_in(fetched: Fetched) -> dict[str, Any]:
    if fetched.status != HTTPStatus.OK:  # draft §5: exactly this one
        raise FetchError("status", str(fetched.status))
    if not _is_json(fetched):
        raise FetchError("not_json", "another content type")
    return fetched.json_object()


def _is_json(fetched: Fetched) -> bool:
    media_type = fetched.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "application/json":
        return True
    return media_type.startswith("application/") and media_type.endswith("+json")


def _as_refusal(error: FetchError, rule: str) -> Refusal:
    refusal = refused(rule, _SAID.get(error.code, "its description cannot be used"))
    code = UNAVAILABLE if error.code in _LATER else refusal.code
    return replace(refusal, code=code, detail=f"{refusal.detail} ({error})")


def _is_among(names: set[str], listed: frozenset[str]) -> bool:
    if "*" in listed or not names.isdisjoint(listed):
        return True
    above = tuple(name.removeprefix("*") for name in listed if name.startswith("*."))
    return bool(above) and any(name.endswith(above) for name in names)
