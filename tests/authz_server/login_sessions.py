"""Login sessions of a whole working day, as a login by password begins them."""

import secrets

from authz_server.store.sessions import SESSION_LIFETIME_SECONDS, NewSession, SessionStore
from idp_connectors.evidence import Person
from token_exchange.identifiers import new_id


async def logged_in_at(
    sessions: SessionStore, sub: str, person: Person, now: int, *, replacing: str | None = None
) -> NewSession:
    ends = now + SESSION_LIFETIME_SECONDS
    sid = new_id("ses", secrets.token_bytes)
    return await sessions.start(
        sid, sub, person, now, ends=ends, claims_until=ends, replacing=replacing
    )
