import msgspec
import pytest

from token_exchange.claims import AccessTokenClaims, Actor, Refusal
from token_exchange.delegation import acting_agent, actors_of, chain_ids, depth_of, wrap_actor

AGENT = Actor("https://attest", "unix:host/1000/bot", "ai_agent", "support-bot")
GATEWAY = Actor("https://as", "gateway:demo", "service")


def chain(depth: int) -> Actor | None:
    actor: Actor | None = None
    for number in range(depth):
        actor = Actor("https://attest", f"agent-{number}", "ai_agent", f"bot-{number}", actor)
    return actor


def token(**changes: object) -> AccessTokenClaims:
    claims = {
        "iss": "https://as",
        "aud": "https://gw/crm/mcp",
        "jti": "tok_1",
        "iat": 0,
        "exp": 900,
        "sub": "usr_alice",
        "sub_profile": "user",
        "client_id": "support-bot",
        "act": AGENT,
        **changes,
    }
    return msgspec.convert(claims, AccessTokenClaims, from_attributes=True)


@pytest.mark.requirement("RFC8693-4.1")
def test_chain_is_read_outermost_first() -> None:
    wrapped = wrap_actor(GATEWAY, AGENT)

    assert isinstance(wrapped, Actor)
    assert actors_of(wrapped) == (wrapped, AGENT)
    assert chain_ids(wrapped) == ("gateway:demo", "support-bot")
    assert depth_of(wrapped) == 2


def test_chain_of_nobody_is_empty() -> None:
    assert actors_of(None) == ()
    assert chain_ids(None) == ()
    assert depth_of(None) == 0


@pytest.mark.requirement("RFC8693-4.1")
def test_actor_is_wrapped_around_the_chain_it_received_unchanged() -> None:
    inner = chain(3)

    wrapped = wrap_actor(GATEWAY, inner)

    assert isinstance(wrapped, Actor)
    assert wrapped.act is inner
    assert msgspec.structs.replace(wrapped, act=None) == GATEWAY


def test_actor_for_a_person_directly_starts_the_chain() -> None:
    assert wrap_actor(GATEWAY, None) == GATEWAY


@pytest.mark.requirement("attack-16")
def test_chain_of_four_actors_is_accepted_and_of_five_refused() -> None:
    assert depth_of(chain(4)) == 4
    wrapped = wrap_actor(GATEWAY, chain(3))
    refusal = wrap_actor(GATEWAY, chain(4))

    assert isinstance(wrapped, Actor)
    assert depth_of(wrapped) == 4
    assert isinstance(refusal, Refusal)
    assert refusal.rule == "delegation.depth"
    assert isinstance(wrap_actor(GATEWAY, chain(5)), Refusal)


@pytest.mark.requirement("attack-17")
def test_actor_that_brings_its_own_chain_is_refused() -> None:
    forged = msgspec.structs.replace(GATEWAY, act=AGENT)

    refusal = wrap_actor(forged, AGENT)

    assert isinstance(refusal, Refusal)
    assert refusal.rule == "delegation.forged"


def test_agent_of_a_token_for_a_person_is_its_actor() -> None:
    assert acting_agent(token()) == "support-bot"


def test_agent_of_a_token_alone_is_itself() -> None:
    alone = token(sub="agent:report-bot", sub_profile="ai_agent", agent="report-bot", act=None)

    assert acting_agent(alone) == "report-bot"


@pytest.mark.requirement("attack-17")
@pytest.mark.parametrize(
    "changes",
    [
        {"act": None},  # a person directly
        {"act": GATEWAY},  # acted for by something that is no agent
        {"agent": "support-bot"},  # names an agent in both places
        {"act": None, "agent": "support-bot"},
        {"sub_profile": "ai_agent", "agent": "report-bot"},  # alone, and acted for
        {"sub_profile": "ai_agent", "act": None},
        {"sub_profile": "service", "act": None},
        {"sub_profile": "service", "act": None, "agent": "report-bot"},
        {"sub_profile": "other"},
    ],
)
def test_agent_of_a_token_of_another_form_is_none(changes: dict[str, object]) -> None:
    assert acting_agent(token(**changes)) is None
