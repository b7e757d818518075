"""The whole story of `make run`, with an agent whose only identity is an SVID of a real SPIRE."""

import io
import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from compose.demo.stack import Stack
from compose.demo.steps import Story
from compose.demo.story import play
from tests.services import spire
from tests.services.common import service
from tests.stack import free_ports

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(300)]

PROD = "prod.example.com"


@dataclass
class SpiffeStack(Stack):
    """The demo, whose TrustProvider is a trust domain and whose agent has its SPIFFE ID."""

    bundle: Path = field(default_factory=Path)

    def objects(self) -> Path:
        folder = super().objects()
        file = folder / "20-workloads.yaml"
        documents = list(yaml.safe_load_all(file.read_text()))
        for each in documents:
            if each["kind"] == "TrustProvider":
                each["spec"] = {
                    "type": "spiffe",
                    "trust_domain": PROD,
                    "bundle_file": str(self.bundle),
                }
            if each["kind"] == "Agent":
                each["spec"]["attestation"] |= {
                    "minimum_level": 2,
                    "match": {"spiffe.id": f"spiffe://{PROD}/support-bot"},
                }
        file.write_text(yaml.safe_dump_all(documents))
        return folder


@pytest.mark.requirement("spiffe-real")
def test_story_holds_with_a_spiffe_identity(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with service("SPIRE"):
        spire.install()
    directory = tmp_path_factory.mktemp("spiffe")
    with spire.running_trust_domain(PROD, directory / "p") as prod:
        prod.await_identity(prod.register("/support-bot", f"unix:uid:{os.getuid()}"))
        bundle = directory / "bundle.json"
        bundle.write_text(prod.bundle())
        environment = {"SPIFFE_ENDPOINT_SOCKET": prod.workload_api}
        ports = free_ports()
        stack = SpiffeStack(directory / "run", ports=ports, environment=environment, bundle=bundle)
        shown = io.StringIO()
        with stack:
            story = Story(stack, Console(file=shown, width=200), level=2)
            try:
                held = play(story)
            finally:
                if story.agent is not None:
                    story.agent.stop()
                if "alice" in story.seen:
                    story.seen["alice"].close()
        assert held, shown.getvalue()
        assert f"spiffe://{PROD}/support-bot" in shown.getvalue()
