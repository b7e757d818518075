"""Strangers who try to log in cannot keep everybody else from it."""

from contextlib import ExitStack

import pytest

from authz_server.login_places import (
    MAXIMUM_PLACES,
    PLACES_OF_AN_ADDRESS,
    PLACES_OF_THE_HASTY,
    TYPING_SECONDS,
    LoginPlaces,
)
from idp_connectors.workforce.password_hashing import MAXIMUM_WAITING
from tests.authz_server.front_half import FrontHalf

PATIENT = float(TYPING_SECONDS)


@pytest.mark.requirement("attack-30")
def test_places_of_one_address_leave_some_for_others() -> None:
    places, open_now = LoginPlaces(), ExitStack()
    with open_now:
        taken = [
            open_now.enter_context(places.place(f"itx_{number}", "203.0.113.9", PATIENT))
            for number in range(40)
        ]
        assert sum(taken) == PLACES_OF_AN_ADDRESS
        assert open_now.enter_context(places.place("itx_alice", "198.51.100.1", 0.0))


@pytest.mark.requirement("attack-30")
def test_places_are_kept_for_requests_opened_a_while_ago() -> None:
    places, open_now = LoginPlaces(), ExitStack()
    with open_now:
        taken = [
            open_now.enter_context(places.place(f"itx_{number}", f"203.0.113.{number}", 1.0))
            for number in range(40)
        ]
        assert sum(taken) == PLACES_OF_THE_HASTY
        assert open_now.enter_context(places.place("itx_alice", "198.51.100.1", PATIENT))


@pytest.mark.requirement("attack-30")
def test_place_of_a_request_is_one_and_all_are_bounded_and_given_back() -> None:
    places = LoginPlaces()
    with places.place("itx_1", "a", PATIENT) as first, places.place("itx_1", "b", PATIENT) as again:
        assert (first, again) == (True, False)
    with ExitStack() as open_now:
        taken = [
            open_now.enter_context(places.place(f"itx_{number}", f"a{number}", PATIENT))
            for number in range(MAXIMUM_PLACES + 5)
        ]
        assert sum(taken) == MAXIMUM_PLACES
    with places.place("itx_1", "a", PATIENT) as later:
        assert later
    assert MAXIMUM_PLACES <= MAXIMUM_WAITING  # the queue behind is never what refuses


@pytest.mark.requirement("attack-30")
def test_login_without_a_place_is_told_to_try_again_and_works_then(half: FrontHalf) -> None:
    browser = half.browser()
    page = browser.authorize()
    with ExitStack() as open_now:
        for number in range(40):
            open_now.enter_context(
                half.parts.login_places.place(f"itx_{number}", f"a{number}", PATIENT)
            )
        busy = browser.log_in(page, "alice")
        assert busy.status_code == 503
        assert busy.headers["retry-after"]
    assert browser.log_in(busy, "alice").status_code == 200
