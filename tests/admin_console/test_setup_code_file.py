"""The file of the setup code is there while the code is good, and no longer."""

from pathlib import Path

import pytest

from admin_console.setup_codes import SetupCodes
from countersign.setup_code_file import SetupCodeFile
from database.errors import DatabaseBusyError
from tests.admin_console.stack import AdminStack
from tests.busy_database import busy_after
from tests.registry.samples import small_set

pytestmark = pytest.mark.requirement("admin-setup")


class StillThereError(Exception):
    """The file was left where it is, until the database is asked again."""


async def pause(_seconds: float) -> None:
    raise StillThereError


@pytest.fixture
def fresh(empty: AdminStack) -> AdminStack:
    body = {"objects": [each.model_dump() for each in small_set()]}
    assert empty.call("POST", "/objects", body=body).status == 200
    return empty


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "setup-code"


@pytest.fixture
def handed_out(fresh: AdminStack, path: Path) -> SetupCodeFile:
    file = SetupCodeFile(path, fresh.parts.setup_codes, fresh.clock, pause)
    file.hand_out()
    assert path.stat().st_mode & 0o777 == 0o600
    return file


def assert_stays(stack: AdminStack, file: SetupCodeFile, path: Path) -> None:
    with pytest.raises(StillThereError):
        stack.run(file.run())
    assert path.exists()


def test_file_of_the_setup_code_goes_when_the_code_made_an_admin(
    fresh: AdminStack, handed_out: SetupCodeFile, path: Path
) -> None:
    assert_stays(fresh, handed_out, path)
    code = path.read_text().strip()
    assert fresh.call("POST", "/setup", body={"code": code}, who="usr_alice").status == 200
    fresh.run(handed_out.run())
    assert not path.exists()


def test_file_of_the_setup_code_stays_after_a_use_that_failed(
    fresh: AdminStack, handed_out: SetupCodeFile, path: Path
) -> None:
    code = path.read_text().strip()
    with busy_after(0, fresh.database):
        assert fresh.call("POST", "/setup", body={"code": code}, who="usr_alice").status == 503
    assert_stays(fresh, handed_out, path)
    assert fresh.call("POST", "/setup", body={"code": code}, who="usr_alice").status == 200
    fresh.run(handed_out.run())
    assert not path.exists()


def test_file_of_the_setup_code_goes_when_the_code_expires(
    fresh: AdminStack, handed_out: SetupCodeFile, path: Path
) -> None:
    fresh.clock.now += 899
    assert_stays(fresh, handed_out, path)
    fresh.clock.now += 1
    fresh.run(handed_out.run())
    assert not path.exists()


def test_file_of_the_setup_code_goes_when_another_server_made_a_newer_one(
    fresh: AdminStack, handed_out: SetupCodeFile, path: Path
) -> None:
    assert fresh.parts.setup_codes.create_now(int(fresh.clock())) is not None
    fresh.run(handed_out.run())
    assert not path.exists()


def test_file_of_the_setup_code_stays_while_the_database_does_not_answer(
    fresh: AdminStack, handed_out: SetupCodeFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(_codes: SetupCodes, _code: str, _now: int) -> bool:
        raise DatabaseBusyError("busy")

    monkeypatch.setattr(SetupCodes, "is_open", busy)
    assert_stays(fresh, handed_out, path)


@pytest.mark.usefixtures("handed_out")
def test_file_of_an_earlier_start_goes_where_somebody_is_admin(
    fresh: AdminStack, path: Path
) -> None:
    code = path.read_text().strip()
    assert fresh.call("POST", "/setup", body={"code": code}, who="usr_alice").status == 200
    later = SetupCodeFile(path, fresh.parts.setup_codes, fresh.clock, pause)
    later.hand_out()
    assert not path.exists()
    fresh.run(later.run())
