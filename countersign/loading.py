"""Loads what a process is made of, once and cheaply, before it serves.

Loading makes several hundred thousand objects that all stay. The collector of reference cycles
would go through them again and again while they are made (a fifth of the time to start), and once
more at each of its full rounds later: a tenth of a second in which the process answers nobody.
"""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def kept_for_good() -> Iterator[None]:
    """What is made inside is never looked through for cycles; what is made after it is."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
