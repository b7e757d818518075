"""A gateway's key that an operator takes back is good for nothing; the other gateway goes on."""

import json
import time
from collections.abc import Iterator

import httpx2
import pytest

from tests.deployment import Deployment, running_deployment
from tests.operators import typed
from tests.witness import Witness

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with running_deployment(tmp_path_factory.mktemp("deployment")) as running:
        yield running


@pytest.mark.requirement("admin-gateways")
def test_gateway_whose_key_was_taken_back_serves_nobody(
    deployment: Deployment,
) -> None:
    first, second = deployment.gateways
    agents = [deployment.agent(gateway) for gateway in deployment.gateways]
    for agent in agents:
        agent.token_for("alice", "crm", ["list_hours"])
        assert agent.call("crm", "list_hours").status_code == httpx2.codes.OK
    listed = typed(first, "-o", "json", "gateway", "keys", second.gateway, socket=True).stdout
    (key,) = (each["thumbprint"] for each in json.loads(listed))
    witness = Witness(first)

    typed(first, "gateway", "remove-key", second.gateway, "--key", key, socket=True)

    event = witness.event("gateway.key_removed", object_ref=f"Gateway/{second.gateway}")
    assert event["detail"] == f"key {key}"
    # Its control channel ends, and it may not open another.
    witness.event("token.refused", error_code="invalid_client")
    deadline = time.monotonic() + 10  # the lease is 3 s
    while agents[1].call("crm", "list_hours").status_code != httpx2.codes.SERVICE_UNAVAILABLE:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert agents[0].call("crm", "list_hours").status_code == httpx2.codes.OK
