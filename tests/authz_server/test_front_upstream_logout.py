"""From a login elsewhere to the logout there: the provider's own name of the session counts."""

from typing import Any

import pytest
from httpx2 import Response
from starlette.testclient import TestClient

from audit_log.event import EventType
from idp_connectors.workforce.logout_token import EVENT
from registry.blocks import BlockKind
from tests.authz_server.front_half import FrontHalf, is_consent
from tests.authz_server.partner import Partner, partner_of
from tests.idp_connectors.openid import CLIENT_ID, IDP, signed_with


@pytest.fixture
def partner(half: FrontHalf) -> Partner:
    return partner_of(half)


def log_out_there(partner: Partner, **changes: Any) -> Response:
    now = int(partner.half.clock())
    claims = {
        "iss": IDP,
        "aud": CLIENT_ID,
        "iat": now,
        "exp": now + 120,
        "jti": "lt-1",
        "sid": "upstream-7",
        "events": {EVENT: {}},
    } | changes
    token = signed_with(partner.idp.key, claims, typ="logout+jwt")
    provider = TestClient(partner.half.app, base_url=partner.half.issuer)
    return provider.post("/oauth/backchannel-logout/partner", data={"logout_token": token})


@pytest.mark.requirement("OIDC-BCL-2.6")
def test_the_session_that_ended_there_ends_here(partner: Partner) -> None:
    partner.idp.claim_changes = {"sid": "upstream-7"}
    browser = partner.half.browser()
    assert is_consent(partner.log_in(browser))
    assert is_consent(browser.authorize())  # still logged in

    assert log_out_there(partner).status_code == 200
    partner.half.live.blocks = partner.half.revocations.state()

    (login,) = partner.half.spool.of(EventType.LOGIN_SUCCEEDED)
    claims = partner.half.live.blocks.entries[BlockKind.CLAIMS, login.user or ""]
    assert claims.not_before >= int(partner.half.clock())
    assert not is_consent(browser.authorize())


@pytest.mark.parametrize("wrong", [{"sid": "another"}, {"aud": "another"}, {"nonce": "n"}])
def test_another_session_or_a_wrong_token_ends_nothing(
    partner: Partner, wrong: dict[str, Any]
) -> None:
    partner.idp.claim_changes = {"sid": "upstream-7"}
    browser = partner.half.browser()
    partner.log_in(browser)
    log_out_there(partner, **wrong)
    partner.half.live.blocks = partner.half.revocations.state()
    assert is_consent(browser.authorize())


def test_a_logout_that_names_the_person_reaches_a_login_without_a_named_session(
    partner: Partner,
) -> None:
    browser = partner.half.browser()
    assert is_consent(partner.log_in(browser))
    assert log_out_there(partner, sub="carol").status_code == 200
    partner.half.live.blocks = partner.half.revocations.state()
    assert not is_consent(browser.authorize())
