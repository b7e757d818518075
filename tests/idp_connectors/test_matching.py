import pytest

from idp_connectors.workload.local_operator import (
    attests_scripts,
    descends_from_agent,
    local_operator_refusal,
)
from idp_connectors.workload.matching import match_agent
from idp_connectors.workload.peer import PeerIdentity
from idp_connectors.workload.process_facts import ProcessFacts
from registry.snapshot import AgentRecord, ProviderRecord
from tests.idp_connectors.samples import agent, agents, evidence, process
from token_exchange.claims import Refusal

UNIT = {"unix.uid": "1000", "unix.unit": "bot.service"}
LOCAL = {"local": ProviderRecord("local", "unix_process", {"demo": False})}
DEMO = {"local": ProviderRecord("local", "unix_process", {"demo": True})}


def rule_of(answer: AgentRecord | Refusal) -> str:
    assert isinstance(answer, Refusal)
    return answer.rule


def test_evidence_that_meets_every_rule_is_the_agent() -> None:
    found = match_agent(evidence(UNIT | {"unix.gid": "5"}), agents(agent(match=UNIT)))
    assert isinstance(found, AgentRecord)
    assert found.entry.name == "support-bot"


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"unix.uid": "1000"},
        {"unix.uid": "1000", "unix.unit": "bot.service "},
        {"unix.uid": "1000", "unix.unit": "Bot.service"},
        {"unix.uid": "01000", "unix.unit": "bot.service"},
    ],
)
def test_evidence_that_misses_a_rule_by_a_byte_is_no_agent(claims: dict[str, str]) -> None:
    assert rule_of(match_agent(evidence(claims), agents(agent(match=UNIT)))) == "agent.unknown"


@pytest.mark.requirement("attack-5")
def test_evidence_of_a_provider_the_agent_does_not_list_is_no_agent() -> None:
    answer = match_agent(evidence(UNIT, provider="other"), agents(agent(match=UNIT)))
    assert rule_of(answer) == "agent.unknown"


@pytest.mark.requirement("trap-two-agents")
def test_evidence_that_matches_two_agents_is_neither() -> None:
    both = agents(agent(match=UNIT), agent("other-bot", match={"unix.uid": "1000"}))
    assert rule_of(match_agent(evidence(UNIT), both)) == "agent.ambiguous"


@pytest.mark.requirement("trap-two-agents")
def test_evidence_that_matches_two_agents_is_neither_even_if_one_wants_a_higher_level() -> None:
    both = agents(agent(match=UNIT), agent("other-bot", match=UNIT, minimum_level=3))
    assert rule_of(match_agent(evidence(UNIT), both)) == "agent.ambiguous"


def test_evidence_below_the_agents_level_is_refused() -> None:
    answer = match_agent(evidence(UNIT, level=0), agents(agent(match=UNIT, minimum_level=1)))
    assert rule_of(answer) == "agent.level"
    unpinned = match_agent(evidence(UNIT, level=0), agents(agent(match=UNIT, minimum_level=0)))
    assert isinstance(unpinned, AgentRecord)


def test_agent_without_rules_matches_nothing() -> None:
    assert rule_of(match_agent(evidence(UNIT), agents(agent(match={})))) == "agent.unknown"


def peer(own: ProcessFacts, *ancestors: ProcessFacts) -> PeerIdentity:
    return PeerIdentity(own, is_pinned=True, ancestors=ancestors)


SHELL = process(pid=50, parent_pid=1, exe="/bin/bash")
INIT = process(pid=1, uid=0, parent_pid=0, exe="/sbin/init")
BOT = process(pid=60, unit="bot.service")


def refusal_of(
    who: PeerIdentity,
    *records: AgentRecord,
    providers: dict[str, ProviderRecord] | None = None,
    server_uid: int = 1000,
) -> Refusal | None:
    return local_operator_refusal(
        who,
        server_uid=server_uid,
        agents=agents(*records),
        trust_providers=LOCAL if providers is None else providers,
    )


def test_operator_in_a_shell_of_the_servers_user_is_accepted() -> None:
    assert refusal_of(peer(process(), SHELL, INIT), agent(match=UNIT)) is None


@pytest.mark.parametrize("server_uid", [0, 1001])
def test_peer_of_another_user_is_not_the_operator(server_uid: int) -> None:
    refusal = refusal_of(peer(process(), SHELL, INIT), server_uid=server_uid)
    assert refusal is not None
    assert refusal.rule == "admin.local_user"


@pytest.mark.requirement("trap-agent-as-admin")
@pytest.mark.parametrize(
    "who", [peer(BOT, INIT), peer(process(), BOT, INIT), peer(process(), SHELL, BOT, INIT)]
)
def test_peer_that_is_or_descends_from_an_agent_is_not_the_operator(who: PeerIdentity) -> None:
    refusal = refusal_of(who, agent(match=UNIT))
    assert refusal is not None
    assert refusal.rule == "admin.local_agent"
    assert "Agent support-bot" in refusal.description
    assert "unix.unit: bot.service" in refusal.description


@pytest.mark.requirement("trap-agent-as-admin")
def test_agent_of_a_higher_level_than_the_evidence_still_counts() -> None:
    assert refusal_of(peer(BOT, INIT), agent(match=UNIT, minimum_level=3)) is not None


def test_peer_whose_ancestors_are_unknown_is_not_the_operator() -> None:
    refusal = refusal_of(peer(process()))
    assert refusal is not None
    assert refusal.rule == "admin.local_ancestors"


def test_script_counts_only_where_the_provider_is_in_demo_mode() -> None:
    script = process(pid=61, script_digest="sha-256:aa")
    rules = agent(match={"unix.script_digest": "sha-256:aa"})
    assert refusal_of(peer(process(), script, INIT), rules, providers=DEMO) is not None
    assert refusal_of(peer(process(), script, INIT), rules, providers=LOCAL) is None
    assert attests_scripts(DEMO)
    assert not attests_scripts(LOCAL)


def test_agent_of_another_kind_of_provider_is_not_judged_by_processes() -> None:
    elsewhere = {"local": ProviderRecord("local", "kubernetes", {})}
    assert descends_from_agent(peer(BOT), agents(agent(match=UNIT)), elsewhere) is None
    assert descends_from_agent(peer(BOT), agents(agent(match=UNIT)), LOCAL) == "support-bot"
