"""Loads what a process is made of, once and cheaply, before it does anything.

Loading makes a few hundred thousand objects that all stay. The collector of reference cycles would
go through them again and again while they are made, and once more at the end: a third of what a
command or a start takes. And at each of its full rounds in between: a tenth of a second in which
the authorization server answers nobody.
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
