"""The wheel: everything in it that runs, nothing that does not."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_wheel_holds_every_package_with_its_data_and_no_test(tmp_path: Path) -> None:
    subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if not name.split("/")[0].endswith("dist-info")}
    assert tops == {path.parent.name for path in ROOT.glob("*/py.typed")}
    for package in tops:
        assert f"{package}/py.typed" in names
    for data in ("policies/shipped/base.cedar", "authz_server/pages/login.html"):
        assert data in names
    assert not [name for name in names if name.startswith(("tests/", "compose/", "bench/"))]
