"""A small valid set of objects to change, and a policy language simple enough to see through."""

import asyncio
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from database.engine import Database
from registry.changes import ChangePlan
from registry.counters import REGISTRY_VERSION, value_of
from registry.enrolment import EnrolmentStore
from registry.objects import DeclaredObject
from registry.policy_activation import PolicyOutcome, PolicyProblem
from registry.revocations import RevocationStore
from registry.snapshot import PolicySetEntry, RegistrySnapshot
from registry.store import AppliedChange, RegistryStore
from registry.tool_catalogue import ToolCatalogue

ISSUER = "http://127.0.0.1:8700"


class UnixSettings(BaseModel):
    model_config = ConfigDict(extra="forbid")

    socket: str = "attest.sock"


class NoSettings(BaseModel):
    model_config = ConfigDict(extra="forbid")


class IssuerSettings(BaseModel):
    model_config = ConfigDict(extra="forbid")

    issuer: str


class SecretSettings(BaseModel):
    model_config = ConfigDict(extra="forbid")

    secret: str
    header: str = "Authorization"


SETTINGS_MODELS: dict[tuple[str, str], type[BaseModel]] = {
    ("TrustProvider", "unix_process"): UnixSettings,
    ("IdentityProvider", "local_accounts"): NoSettings,
    ("IdentityProvider", "oidc"): IssuerSettings,
    ("CredentialProvider", "issued_token"): NoSettings,
    ("CredentialProvider", "static_secret"): SecretSettings,
}


class FakeClock:
    """A clock that stands still until told."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def naming_compiler(policies: PolicySetEntry, snapshot: RegistrySnapshot) -> PolicyOutcome:
    """A policy language of one word per line: a tool that must be approved, or `error`."""
    approved = {
        f"{server.name}/{tool.name}"
        for server in snapshot.servers.values()
        for tool in server.tools
    }
    problems: list[PolicyProblem] = []
    waiting: list[str] = []
    for document in policies.documents:
        if document.name.startswith("shipped/"):
            continue
        for number, word in enumerate(document.cedar.split(), start=1):
            if word == "error":
                problems.append(PolicyProblem(document.name, "p1", number, "wrong"))
            elif word not in approved:
                waiting.append(word)
    return PolicyOutcome(tuple(problems), tuple(waiting))


def declare(kind: str, name: str, **spec: object) -> DeclaredObject:
    return DeclaredObject.model_validate({"kind": kind, "name": name, "spec": spec})


def tool(name: str, description: str = "It does.") -> dict[str, Any]:
    return {"name": name, "description": description, "inputSchema": {"type": "object"}}


def observed_digests(catalogue: ToolCatalogue, *names: str) -> dict[str, str]:
    """What `crm` offers under these names now, as an operator who looked at it approves it."""
    seen = {each.name: each.digest for each in catalogue.list("crm")}
    return {name: seen.get(name) or "sha-256:nothing" for name in names}


def small_set() -> list[DeclaredObject]:
    return [
        declare("TrustProvider", "unix", type="unix_process"),
        declare("IdentityProvider", "local", type="local_accounts"),
        declare("CredentialProvider", "crm-token", type="issued_token"),
        declare(
            "McpServer",
            "crm",
            url="http://127.0.0.1:9001/mcp",
            credential={"provider": "crm-token"},
        ),
        declare("Gateway", "demo", base_url="http://127.0.0.1:8701", servers=["crm"]),
        declare(
            "Agent",
            "support-bot",
            owner="support@example.com",
            attestation={"providers": ["unix"], "match": {"unix.uid": "1000"}},
            acts_for={"groups": ["local/support"]},
            tools=["crm/get_*", "crm/refund"],
        ),
    ]


def replaced(
    objects: list[DeclaredObject], kind: str, name: str, **spec: object
) -> list[DeclaredObject]:
    """`objects` with fields of one spec replaced; a value of None removes the field."""
    changed = []
    for each in objects:
        if (each.kind, each.name) == (kind, name):
            merged = {key: value for key, value in (each.spec | spec).items() if value is not None}
            changed.append(declare(kind, name, **merged))
        else:
            changed.append(each)
    return changed


@dataclass
class Registry:
    database: Database
    store: RegistryStore
    catalogue: ToolCatalogue
    revocations: RevocationStore
    enrolment: EnrolmentStore
    clock: FakeClock

    def apply(
        self, *objects: DeclaredObject, delete: tuple[tuple[str, str], ...] = ()
    ) -> AppliedChange:
        return self.carry_out(self.plan(*objects, delete=delete))

    def carry_out(self, plan: ChangePlan, author: str = "local:0") -> AppliedChange:
        return asyncio.run(self.store.apply(plan, author))

    def version(self) -> int:
        return self.database.read(lambda connection: value_of(connection, REGISTRY_VERSION))

    def plan(
        self, *objects: DeclaredObject, delete: tuple[tuple[str, str], ...] = ()
    ) -> ChangePlan:
        return self.store.plan(objects, delete=delete)
