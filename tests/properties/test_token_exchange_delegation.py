from hypothesis import given
from hypothesis import strategies as st

from token_exchange.claims import Actor, Refusal
from token_exchange.delegation import actors_of, chain_ids, depth_of, wrap_actor
from token_exchange.token_types import MAXIMUM_ACTOR_DEPTH

NAMES = st.text("abc", min_size=1, max_size=3)
ACTORS = st.builds(Actor, NAMES, NAMES, st.sampled_from(["ai_agent", "service"]), st.none() | NAMES)


@st.composite
def chains(draw: st.DrawFn) -> Actor | None:
    """A chain of up to six actors, so that the bound is met and passed."""
    chain: Actor | None = None
    for actor in draw(st.lists(ACTORS, max_size=6)):
        chain = Actor(actor.iss, actor.sub, actor.sub_profile, actor.agent, chain)
    return chain


@given(ACTORS, chains())
def test_chain_only_grows_and_keeps_what_it_was(outer: Actor, inner: Actor | None) -> None:
    wrapped = wrap_actor(outer, inner)

    if isinstance(wrapped, Refusal):
        assert depth_of(inner) >= MAXIMUM_ACTOR_DEPTH
    else:
        assert depth_of(wrapped) == depth_of(inner) + 1 <= MAXIMUM_ACTOR_DEPTH
        assert actors_of(wrapped)[1:] == actors_of(inner)
        assert chain_ids(wrapped)[1:] == chain_ids(inner)


@given(ACTORS, chains())
def test_chain_is_never_replaced_by_a_forged_one(outer: Actor, forged: Actor | None) -> None:
    actor = Actor(outer.iss, outer.sub, outer.sub_profile, outer.agent, forged)

    assert isinstance(wrap_actor(actor, None), Refusal) == (forged is not None)
