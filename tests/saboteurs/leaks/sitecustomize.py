"""As the folder above, for `LEAK`: plants one leak of `tests/saboteurs/break_secrecy.py`."""

import os
import sys

from tests.saboteurs.break_secrecy import LEAKS
from tests.saboteurs.saboteurs import Saboteur
from tests.saboteurs.sitecustomize import _Breaking

planted = os.environ.get("LEAK")
if planted is not None:
    sys.meta_path.insert(0, _Breaking(Saboteur("canary", LEAKS[planted])))
