"""Whether a declared Agent describes the server's own process, or one it descends from.

Such an Agent shuts the operator out of the admin socket, and `serve` out of its own gateway: every
local process of the server's user would then be, or descend from, the agent
(`idp_connectors.workload.local_operator`). Only the server can know this, of its own machine, so
it looks at itself when it starts. What was declared before is left alone: only a change that
would bring such an Agent about is refused. Left out: agents of other machines, and whether an
agent that is told apart could still reach the operator's processes (design of that door).
"""

import os
from collections.abc import Iterator, Mapping, Sequence

from idp_connectors.workload.process_facts import ProcessFacts, ProcessGoneError, read_process
from idp_connectors.workload.unix_process import METHOD, claims_of
from registry.changes import MachineCheck, ObjectChange
from registry.declared import DeclaredSet, ParsedObject, Problem


def own_processes() -> tuple[ProcessFacts, ...]:
    """This process and those it descends from, nearest first, as far as they can be read."""
    found: list[ProcessFacts] = []
    pid = os.getpid()
    while pid > 0:
        try:
            found.append(read_process(pid, with_script=True))
        except ProcessGoneError:
            break
        pid = found[-1].parent_pid
    return tuple(found)


def lockout_check(processes: Sequence[ProcessFacts]) -> MachineCheck:
    """The check of a change, for a server that is `processes[0]`."""

    def check(changes: Sequence[ObjectChange], declared: DeclaredSet) -> Iterator[Problem]:
        changed = {change.key for change in changes}
        for agent in declared.of_kind("Agent").values():
            if agent.spec.attestation is None:  # no process is it
                continue
            providers = agent.spec.attestation.providers
            keys = {("Agent", agent.name), *(("TrustProvider", name) for name in providers)}
            if keys & changed:
                yield from _problems(agent, declared, processes)

    return check


def _problems(
    agent: ParsedObject, declared: DeclaredSet, processes: Sequence[ProcessFacts]
) -> Iterator[Problem]:
    match: Mapping[str, str] = agent.spec.attestation.match
    trust = declared.of_kind("TrustProvider")
    for name in agent.spec.attestation.providers:
        provider = trust.get(name)
        if provider is None or provider.spec.type != METHOD:
            continue
        demo = bool(provider.settings.get("demo"))
        for index, process in enumerate(processes):
            claims = claims_of(process, demo=demo)
            if all(claims.get(claim) == wanted for claim, wanted in match.items()):
                message = _message(match, index, process)
                yield Problem("Agent", agent.name, "spec.attestation.match", message)
                return


def _message(match: Mapping[str, str], index: int, process: ProcessFacts) -> str:
    rules = ", ".join(f"{claim}: {value}" for claim, value in sorted(match.items()))
    whom = "this server itself" if index == 0 else f"process {process.pid}, which started it"
    return (
        f"{rules} also describes {whom}, so the admin socket and `serve`'s own gateway would be"
        " refused as if they were the agent; run the agent as a user of its own, or add the"
        " unix.unit of its service"
    )
