"""What the modules here share: a running stack, an agent at it, and the authority's keys."""

from collections.abc import Iterator

import pytest

from compose.demo.stack import Stack
from tests.forging import Keys, real_keys
from tests.gateway_requests import TOOLS, is_served
from tests.stack import TestAgent, audit_events, running_stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One for the modules whose traces no other module minds; the others start their own."""
    with running_stack(tmp_path_factory.mktemp("stack")) as running:
        yield running


@pytest.fixture(scope="module")
def agent(stack: Stack, request: pytest.FixtureRequest) -> TestAgent:
    """An agent with Alice's token for crm: for the `TOOLS` of the module, or all she may use."""
    agent = TestAgent(stack)
    agent.token_for("alice", "crm", getattr(request.module, "TOOLS", TOOLS))
    return agent


@pytest.fixture(scope="module")
def keys(stack: Stack) -> Keys:
    return real_keys(stack)


@pytest.fixture
def goes_on_serving(agent: TestAgent) -> Iterator[None]:
    """After each case: the next good call is served."""
    yield
    assert is_served(agent)


@pytest.fixture(scope="module")
def same_processes(stack: Stack) -> Iterator[None]:
    """After all of them: the processes that were started are the ones that run."""
    yield
    started = [event["source"] for event in audit_events(stack, type="source.started")]
    assert len(started) == 2, started
