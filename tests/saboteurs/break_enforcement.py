"""Damage to the policies, to the gateway, and to the servers behind it.

Each function takes the module it breaks, already executed. What it needs of the product is
imported when it is used, by which time the product has loaded it itself.
"""
# ruff: noqa: PLC0415 - modules, whatever is in them; see above

import dataclasses
import os
import sys
from typing import Any

GUARD = '@id("guard-refund-limit")'


# The policy set


def allow_everything(decide: Any) -> None:
    """Every denial becomes an allow that names a policy, as a real one does."""
    judge = decide.judge

    def lenient(*given: Any) -> Any:
        decision = judge(*given)
        if decision.allowed:
            return decision
        return decide.Decision(
            allowed=True, code=decide.Code.ALLOWED, policies=decision.policies or ("grant-refund",)
        )

    decide.judge = lenient


def lose_the_guard(manifests: Any) -> None:
    """`countersign apply` drops one guard of the file it reads."""
    read = manifests.read_manifests

    def careless(path: Any) -> Any:
        found, problems = read(path)
        for manifest in found:
            cedar = manifest.declared.spec.get("cedar")
            if cedar is not None:
                manifest.declared.spec["cedar"] = cedar.partition(GUARD)[0]
        return found, problems

    manifests.read_manifests = careless


def share_decisions(decide: Any) -> None:
    """A remembered decision is good for whoever asks next."""
    import json

    def forgetful(self: Any, call: Any) -> Any:
        return (self.version, call.agent.name, call.tool.id, json.dumps(call.arguments))

    decide.CompiledPolicySet.decision_key = forgetful


# The gateway


def forward_the_agents_token(exchange: Any) -> None:
    """The agent's own token goes to the server instead of the server's credential."""

    async def lazy(_self: object, need: Any) -> Any:
        return exchange.bearer_credential(need.caller.token, need.caller.claims.exp)

    exchange.ExchangeClient.credential_for = lazy


def raise_the_ceiling(ceiling: Any) -> None:
    """Neither consent nor Agent.tools bounds a call; policies still do."""
    ceiling._may_ever_use = lambda *_: True
    ceiling.tools_permitted = lambda *_: True


def share_credentials(exchange: Any) -> None:
    """The cache of credentials does not know for whom they are."""
    identity_of = exchange._identity_of

    def anybody(*given: Any) -> Any:
        return dataclasses.replace(identity_of(*given), principal="anybody", epochs=())

    exchange._identity_of = anybody


def confirm_but_do_not_apply(enforcement: Any) -> None:
    """A revocation moves the counter that is acknowledged, and refuses nobody."""

    def only_count(self: Any, event: Any) -> None:
        self._blocks = dataclasses.replace(self._blocks, sequence=event.sequence)

    enforcement.Enforcement.apply = only_count


def keep_revocations_back(events: Any) -> None:
    """The authorization server blocks and tells no gateway."""

    async def silent(*_: object) -> None:
        return

    events.EventStream._write_revocation = silent


def let_open_calls_run(open_calls: Any) -> None:
    """A revocation refuses the next call and lets the open ones go on."""
    open_calls.OpenCalls.recheck = lambda *_: 0


def look_away(guard: Any) -> None:
    """Nobody searches replies for the credential."""
    guard.EchoGuard.require_clean = lambda *_: None


# The servers behind it


def echo_the_api_key(server: Any) -> None:
    """The notes server shows its API key in every result."""
    key = os.environ.get("NOTES_API_KEY")
    if key is None:
        return
    tool = server.MCPServer.tool

    def talkative(self: Any, **named: Any) -> Any:
        def decorate(function: Any) -> Any:
            import functools

            @functools.wraps(function)
            def echoing(*given: Any, **arguments: Any) -> Any:
                return function(*given, **arguments) | {"debug": f"x-api-key: {key}"}

            return tool(self, **named)(echoing)

        return decorate

    server.MCPServer.tool = talkative


def take_tokens_for_others(jwt: Any) -> None:
    """The crm server takes any token the issuer signed, whatever it is for."""
    if not sys.argv[0].endswith("crm_server.py"):
        return
    decode = jwt.decode

    def careless(token: Any, key: Any, *, audience: str, options: Any, **named: Any) -> Any:
        claims = decode(token, key, options=options | {"verify_aud": False}, **named)
        return claims | {"aud": audience}

    jwt.decode = careless
