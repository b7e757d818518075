"""Time as a parameter."""

from collections.abc import Callable

Clock = Callable[[], float]
