"""What a process is made of stays out of the way of the garbage collector; later things do not."""

import gc
import weakref

import pytest

from countersign.loading import kept_for_good


class Cycle:
    """Refers to itself: only the collector ends it."""

    def __init__(self) -> None:
        self.me = self


def test_collector_rests_while_loading_and_works_afterwards() -> None:
    before = gc.get_freeze_count()
    try:
        with kept_for_good():
            assert not gc.isenabled()
        assert gc.isenabled()
        assert gc.get_freeze_count() > before
        later = weakref.ref(Cycle())
        gc.collect()
        assert later() is None
    finally:
        gc.unfreeze()


def test_collector_works_again_when_loading_failed() -> None:
    try:
        with pytest.raises(ImportError), kept_for_good():
            raise ImportError
        assert gc.isenabled()
    finally:
        gc.unfreeze()
