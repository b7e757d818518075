"""The benchmark's policies are what its README says they are."""

from pathlib import Path

import pytest

from bench import declared
from bench.requests import call_arguments
from policies.compile import compile_policy_set
from policies.decide import CompiledPolicySet
from policies.entities import AgentFacts, CallRequest, RunFacts, ToolFacts, UserFacts
from policies.schema import ServerCatalogue
from registry.snapshot import PolicyDocument

SCHEMA = {
    "type": "object",
    "properties": {"amount": {"type": "integer"}, "query": {"type": "string"}},
    "required": ["amount", "query"],
}
SHIPPED = Path(declared.__file__).parents[1] / "policies" / "shipped"


@pytest.fixture(scope="module")
def compiled() -> CompiledPolicySet:
    documents = [PolicyDocument(path.stem, path.read_text()) for path in SHIPPED.glob("*.cedar")]
    documents += [
        PolicyDocument(each["name"], each["spec"]["cedar"]) for each in declared.policy_objects()
    ]
    others = [(f"other_{n:02d}", SCHEMA, False, 0) for n in range(declared.OTHER_TOOLS)]
    catalogue = ServerCatalogue(
        name=declared.SERVER,
        person_attributes=("groups",),
        tools=((declared.TOOL, SCHEMA, True, 0), *others),
        credential_provider="issued",
    )
    found = compile_policy_set(1, documents, [catalogue])
    assert isinstance(found, CompiledPolicySet), found
    return found


def call(amount: int, groups: tuple[str, ...] = (declared.GROUP,)) -> CallRequest:
    return CallRequest(
        agent=AgentFacts(declared.AGENT, ("bench-agents",), "production", 1, "unix_process"),
        user=UserFacts("usr_1", groups),
        run=RunFacts(),
        now_ms=0,
        tool=ToolFacts(declared.SERVER, declared.TOOL, read_only=True),
        arguments={"amount": amount, "query": "x"},
    )


def test_declared_policies_are_a_hundred_with_those_shipped(compiled: CompiledPolicySet) -> None:
    assert len(compiled.policies) == declared.POLICIES


def test_declared_policies_read_an_argument(compiled: CompiledPolicySet) -> None:
    largest = declared.LARGEST_ALLOWED_AMOUNT

    assert compiled.decide_call(call(largest)).allowed is True
    assert compiled.decide_call(call(largest + 1)).policies == ("guard-amount",)


def test_declared_policies_read_a_group(compiled: CompiledPolicySet) -> None:
    assert compiled.decide_call(call(1, ("local/other",))).allowed is False


def test_declared_policies_remember_a_decision_by_its_argument(compiled: CompiledPolicySet) -> None:
    assert compiled.decision_key(call(1)) is not None
    assert compiled.decision_key(call(1)) != compiled.decision_key(call(2))


def test_declared_arguments_are_denied_once_in_a_hundred() -> None:
    amounts = [arguments["amount"] for arguments in call_arguments()]

    denied = [amount for amount in amounts if amount > declared.LARGEST_ALLOWED_AMOUNT]
    assert len(denied) * 100 == len(amounts)
