"""Workloads that authenticate at the token endpoint by a signed assertion, whoever signed it."""

from dataclasses import dataclass
from typing import Any, ClassVar

import httpx2

from tests.authz_server.back_half import CRM, Authority, Keyholder, error_of
from token_exchange.token_types import GRANT_CLIENT_CREDENTIALS


@dataclass
class AssertionClients:
    """A server, and whoever asks it for a token of their own with such an assertion."""

    assertion_type: ClassVar[str]
    server: Authority

    async def ask(
        self, assertion: str, *, keyholder: Keyholder | None = None, **changes: Any
    ) -> httpx2.Response:
        """A token for whoever holds `assertion`, bound to a fresh key or that of `keyholder`."""
        form = {
            "grant_type": GRANT_CLIENT_CREDENTIALS,
            "client_assertion_type": self.assertion_type,
            "client_assertion": assertion,
            "resource": CRM,
            **changes,
        }
        proof = (keyholder or Keyholder(self.server)).proof()
        return await self.server.post(form, {"dpop": proof})

    async def refused(self, assertion: str, rule: str, **changes: Any) -> httpx2.Response:
        """This one is refused for that reason."""
        answer = await self.ask(assertion, **changes)
        assert_no_client(self.server, answer, rule)
        return answer


def assert_no_client(server: Authority, answer: httpx2.Response, rule: str) -> None:
    """RFC 6749 §5.2, and the audit knows why."""
    assert (answer.status_code, error_of(answer)) == (401, "invalid_client"), answer.text
    assert server.refusals()[-1].reasons == (rule,)
