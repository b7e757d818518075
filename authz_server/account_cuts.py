"""Cuts a person off when an operator changes their local account, in the write that changes it.

The same cut as for what an identity provider reports (`person_changes`): the claims epoch moves, so
the next call gets 401 and whoever comes back is asked about anew; with `ends_sessions` the login
sessions go, and with them every refresh token. Here we are the provider, and nobody waits for a
report: account, epoch, sessions and record stand together or not at all.
"""

from typing import Final

from sqlalchemy import Connection

from audit_log.event import AuditEvent
from authz_server.parts import Parts
from authz_server.store.person_cuts import Ending, PersonCut, apply_in
from authz_server.store.replay import OnceKind, UsedOnce
from idp_connectors.evidence import Person

REMEMBERED_SECONDS: Final = 60  # the reason is this one write: nobody can report it again


def cut_account_off_in(
    parts: Parts,
    connection: Connection,
    person: Person,
    *,
    ends_sessions: bool,
    reason: str,
    author: str,
    event: AuditEvent,
) -> None:
    """Inside the write that changes the account: cut the person off, and record `event`.

    INVARIANT: whom it concerns is read here, not before: whoever logs in for the first time
    meanwhile is one of them.
    """
    now_ms = int(parts.clock() * 1000)
    now, provider = now_ms // 1000, person.identity_provider
    cut = PersonCut(
        once=UsedOnce(OnceKind.PERSON_CHANGE, provider, event.event_id, now + REMEMBERED_SECONDS),
        subs=parts.persons.subs_in(connection, person, now),
        ending=Ending.ALL if ends_sessions else Ending.NONE,
        sids=(),
        reason=reason,
        author=author,
        recorded=lambda _: (event,),
    )
    apply_in(connection, cut, now_ms)
