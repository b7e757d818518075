"""Who acts for whom: chains of actors that can only grow, outermost first (RFC 8693 §4.1).

An actor is wrapped around the chain it received, which stays exactly as it was. Left out: whether
an actor is who it says (verification) and whether it may act (policy).
"""

from typing import Final

import msgspec

from token_exchange.claims import AccessTokenClaims, Actor, Refusal
from token_exchange.token_types import MAXIMUM_ACTOR_DEPTH, SubjectProfile

_FORGED: Final = Refusal(
    "invalid_request",
    "The actor already acts for another.",
    "an actor to be wrapped around a chain brought a chain of its own",
    "delegation.forged",
)
_TOO_DEEP: Final = Refusal(
    "invalid_request",
    "The chain of actors would be too long.",
    f"more than {MAXIMUM_ACTOR_DEPTH} actors",
    "delegation.depth",
)


def actors_of(actor: Actor | None) -> tuple[Actor, ...]:
    """Every actor of a chain, outermost (the one acting now) first."""
    found = []
    while actor is not None:
        found.append(actor)
        actor = actor.act
    return tuple(found)


def depth_of(actor: Actor | None) -> int:
    """How many actors a chain has."""
    return len(actors_of(actor))


def chain_ids(actor: Actor | None) -> tuple[str, ...]:
    """What to call every actor of a chain, outermost first: its Agent name, else its `sub`."""
    return tuple(found.agent or found.sub for found in actors_of(actor))


def wrap_actor(outer: Actor, inner: Actor | None) -> Actor | Refusal:
    """`outer` now acts, for the chain `inner`, which is kept unchanged (RFC 8693 §4.1).

    Refused: an `outer` that brings a chain of its own, and more than `MAXIMUM_ACTOR_DEPTH` actors.
    """
    if outer.act is not None:
        return _FORGED
    if depth_of(inner) >= MAXIMUM_ACTOR_DEPTH:
        return _TOO_DEEP
    return msgspec.structs.replace(outer, act=inner)


def acting_agent(token: AccessTokenClaims) -> str | None:
    """The Agent that holds a token, in the two forms an agent's token has; else None.

    A person with `act` naming an agent (agent for a person), or an agent without `act` naming
    itself (agent alone). A person's own token, a gateway's and every mixture give None.
    """
    if token.sub_profile == SubjectProfile.USER and token.agent is None:
        return token.act.agent if token.act is not None else None
    if token.sub_profile == SubjectProfile.AI_AGENT and token.act is None:
        return token.agent
    return None
