"""The ladder of an exchange is climbed in its order: the first failed rung is the one told."""

from dataclasses import replace
from typing import Any, Final

import msgspec
import pytest

from tests.token_exchange.exchanges import CALL, CRM, NOTES, STATIC_SECRET, exchange, subject
from token_exchange.claims import Refusal
from token_exchange.exchange import plan_exchange

OTHER_TOOL: Final = msgspec.structs.replace(CALL, tool="delete_all")
# What fails each rung, in the order of the ladder; all of it fails together.
WRONG: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("exchange.revoked", {"revoked": "agent/support-bot"}),
    ("exchange.resource_count", {"resource": (CRM.url, NOTES.url)}),
    ("exchange.resource", {"resource": ("https://elsewhere.example/mcp",)}),
    ("exchange.resource_moved", {"targets": {"crm": replace(CRM, url_since=1)}}),
    ("exchange.detail_form", {"details": ()}),
    ("exchange.detail_server", {"details": (msgspec.structs.replace(CALL, server="notes"),)}),
    ("exchange.detail_widened", {"details": (OTHER_TOOL,)}),
    ("exchange.tool", {"agent_tools": {}}),
    ("exchange.unbound", {"subject": subject(iat=1, cnf=None)}),
    ("exchange.token_type", {"requested_token_type": STATIC_SECRET}),
    ("exchange.scope_widened", {"scope": "mcp:tools crm.admin"}),
)


@pytest.mark.requirement("exchange-ladder")
@pytest.mark.parametrize("rung", range(len(WRONG)))
def test_first_failed_rung_is_the_one_told_whatever_fails_after_it(rung: int) -> None:
    wrong: dict[str, Any] = {"subject": subject(iat=1)}
    for _, changes in reversed(WRONG[rung:]):
        wrong |= changes  # the earlier rung's change of the same field is the one that stays
    refusal = plan_exchange(exchange(**wrong))
    assert isinstance(refusal, Refusal)
    assert refusal.rule == WRONG[rung][0]
