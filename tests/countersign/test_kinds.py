"""Kinds as people type them."""

import pytest
import typer

from countersign.cli.kinds import kind_named
from registry.objects import KINDS


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ("agents", "Agent"),
        ("AGENT", "Agent"),
        ("policies", "Policy"),
        ("mcpserver", "McpServer"),
        ("OAuthClients", "OAuthClient"),
        *((kind, kind) for kind in KINDS),
    ],
)
def test_kind_is_known_in_any_case_and_of_several(given: str, kind: str) -> None:
    assert kind_named(given) == kind


@pytest.mark.parametrize(
    ("given", "says"), [("agnet", "did you mean 'Agent'?"), ("types", "known: ")]
)
def test_unknown_kind_says_what_would_be_right(given: str, says: str) -> None:
    with pytest.raises(typer.BadParameter, match="there is no kind") as refused:
        kind_named(given)
    assert says in str(refused.value)
