"""What the measured product is told: the objects of a small company with 100 policies.

Of the 100 policies ten apply to the measured call (the grant reads a group, a guard reads an
argument), the others are for other tools and other agents. Two of the 100 are shipped with the
product. One argument value in a hundred is denied.
"""

from typing import Any, Final

SERVER: Final = "bench"
TOOL: Final = "lookup"
AGENT: Final = "bench-agent"
GATEWAY: Final = "main"
CLIENT_GATEWAY: Final = "token-client"  # the Gateway whose client asks the token endpoint
GROUP: Final = "local/support"
LARGEST_ALLOWED_AMOUNT: Final = 990  # of 1 to 1,000

POLICIES: Final = 100
SHIPPED: Final = 2
FURTHER_GUARDS: Final = 7  # beside the shipped one, the grant and the argument's guard: ten apply
OTHER_TOOLS: Final = 40  # of bench/upstream.c
TEAMS: Final = 4


def objects(*, base_url: str, client_base_url: str, upstream_url: str) -> list[dict[str, Any]]:
    """Everything but the policies, which wait for the tools to be approved."""
    return [
        _object("IdentityProvider", "local", type="local_accounts", groups=["*"]),
        _object("TrustProvider", "local", type="unix_process"),
        _agent(AGENT, "bench-agents"),
        *(_agent(f"team-{n}-agent", f"team-{n}") for n in range(TEAMS)),
        _object("CredentialProvider", "issued", type="issued_token", binding="run"),
        _object(
            "McpServer",
            SERVER,
            url=upstream_url,
            # So that a bearer can be measured too; a token with a key is proved all the same.
            require_bound=False,
            person_attributes=["groups"],
            credential={"provider": "issued"},
            tools={TOOL: {"read_only": True}},
        ),
        _object("Gateway", GATEWAY, base_url=base_url, servers=[SERVER]),
        _object("Gateway", CLIENT_GATEWAY, base_url=client_base_url, servers=[SERVER]),
    ]


def policy_objects() -> list[dict[str, Any]]:
    """The policies that are not shipped."""
    texts = policy_texts()
    half = len(texts) // 2
    return [
        _object("Policy", "bench-first", cedar="\n".join(texts[:half])),
        _object("Policy", "bench-second", cedar="\n".join(texts[half:])),
    ]


def policy_texts() -> list[str]:
    """Each policy once, as Cedar."""
    applying = [_grant(), _argument_guard(), *map(_further_guard, range(FURTHER_GUARDS))]
    others = POLICIES - SHIPPED - len(applying)
    return applying + [_elsewhere(n) for n in range(others)]


def _object(kind: str, name: str, **spec: object) -> dict[str, Any]:
    return {"kind": kind, "name": name, "spec": spec}


def _agent(name: str, group: str) -> dict[str, Any]:
    # No process of this machine matches: the benchmark's own tokens stand for attested agents.
    attestation = {"providers": ["local"], "match": {"unix.uid": f"nobody-is-{name}"}}
    return _object(
        "Agent",
        name,
        owner="bench@example.com",
        attestation=attestation,
        acts_for={"groups": [GROUP]},
        groups=[group],
        tools=[f"{SERVER}/*"],
    )


def _grant() -> str:
    return (
        '@id("grant-lookup") permit (principal in AgentGroup::"bench-agents", '
        f'action == Action::"{SERVER}/{TOOL}", resource == Tool::"{SERVER}/{TOOL}") '
        f'when {{ context.run has user && context.run.user in Group::"{GROUP}" }};'
    )


def _argument_guard() -> str:
    return (
        '@id("guard-amount") @reason("The amount is too large.") '
        f'forbid (principal, action == Action::"{SERVER}/{TOOL}", resource) '
        "unless { context.input has amount && "
        f"context.input.amount <= {LARGEST_ALLOWED_AMOUNT} }};"
    )


def _further_guard(n: int) -> str:
    return (
        f'@id("guard-suspended-{n}") forbid (principal, action in Action::"call_tool", resource) '
        f'when {{ context.run has user && context.run.user in Group::"local/suspended-{n}" }};'
    )


def _elsewhere(n: int) -> str:
    who = f"team-{n % TEAMS}" if n % 2 else "bench-agents"
    tool = f"{SERVER}/other_{n % OTHER_TOOLS:02d}"
    return (
        f'@id("elsewhere-{n}") permit (principal in AgentGroup::"{who}", '
        f'action == Action::"{tool}", resource == Tool::"{tool}") '
        f'when {{ context.run has user && context.run.user in Group::"local/group-{n}" }};'
    )
