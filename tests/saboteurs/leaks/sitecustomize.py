"""As the folder above, for `LEAKS`: plants every leak of `tests/saboteurs/break_secrecy.py`."""

import os
import sys

from tests.saboteurs.break_secrecy import LEAKS
from tests.saboteurs.saboteurs import Saboteur
from tests.saboteurs.sitecustomize import _Breaking

if "LEAKS" in os.environ:
    sys.meta_path[:0] = [_Breaking(Saboteur("canary", breaks)) for breaks in LEAKS.values()]
