"""Who may wait for a password to be checked, when many want to at once.

Checking one takes a tenth of a second of a core on purpose, so only so many may wait, and whoever
fills the places locks everybody out. Therefore a request for authorization has one place, one
network address has half of them, and some are kept for requests opened a while ago: a person types,
a flood does not wait.

What this cannot do: strangers with many addresses who opened their requests in time still fill
everything, and behind a reverse proxy all logins have one address. Limit rates in front.
"""

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

MAXIMUM_PLACES: Final = 32  # about two seconds of work
PLACES_OF_AN_ADDRESS: Final = 16
PLACES_OF_THE_HASTY: Final = 24
TYPING_SECONDS: Final = 5  # a request younger than this is of somebody in a hurry


class LoginPlaces:
    """The logins being checked now, in this process."""

    def __init__(self) -> None:
        self._interactions: set[str] = set()
        self._addresses: Counter[str] = Counter()
        self._hasty = 0

    @contextmanager
    def place(self, interaction: str, address: str, age_seconds: float) -> Generator[bool]:
        """Hold a place inside; False: there is none for this one now."""
        is_hasty = age_seconds < TYPING_SECONDS
        if not self._has_room(interaction, address, is_hasty=is_hasty):
            yield False
            return
        self._interactions.add(interaction)
        self._addresses[address] += 1
        self._hasty += is_hasty
        try:
            yield True
        finally:
            self._interactions.discard(interaction)
            self._addresses[address] -= 1
            if not self._addresses[address]:
                del self._addresses[address]
            self._hasty -= is_hasty

    def _has_room(self, interaction: str, address: str, *, is_hasty: bool) -> bool:
        return (
            interaction not in self._interactions
            and len(self._interactions) < MAXIMUM_PLACES
            and self._addresses.get(address, 0) < PLACES_OF_AN_ADDRESS
            and not (is_hasty and self._hasty >= PLACES_OF_THE_HASTY)
        )
