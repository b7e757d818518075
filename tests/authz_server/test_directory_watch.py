"""Polling identity providers: what is learned is acted on, silence is not taken for consent."""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest

from audit_log.event import EventType
from authz_server.directory_watch import READ_BACK_MS, DirectoryWatch, Watched
from database.errors import DatabaseUnavailableError
from idp_connectors.workforce.person_changes import (
    ChangeKind,
    ChangeReport,
    ChangesUnavailableError,
    FeedCursor,
    PersonChange,
)
from registry.snapshot import ProviderRecord
from tests.authz_server.front_half import NOW, FrontHalf, run
from tests.authz_server.test_person_changes import epoch_of, logged_in

if TYPE_CHECKING:
    from idp_connectors.workforce.login import PersonLogin

RECORD = ProviderRecord("corp", "keycloak", {})


class Directory:
    """A provider that reports what it is told to, or fails."""

    poll_seconds: float | None = 2.0
    blind_after_seconds = 120.0

    def __init__(self) -> None:
        self.reported: list[PersonChange] = []
        self.failure: Exception | None = None
        self.cursors: list[Mapping[str, FeedCursor]] = []
        self.starts: list[int] = []
        self.is_whole = True

    async def changes(self, cursors: Mapping[str, FeedCursor], start_ms: int) -> ChangeReport:
        self.cursors.append(cursors)
        self.starts.append(start_ms)
        if self.failure is not None:
            raise self.failure
        resume = None if self.is_whole else 7
        cursor = FeedCursor(len(self.cursors), resume_from_ms=resume)
        return ChangeReport(tuple(self.reported), {"admin": cursor})


class Watching:
    """A watch on one provider, polled by hand."""

    def __init__(self, half: FrontHalf) -> None:
        self.half = half
        self.directory = Directory()
        self.watch = DirectoryWatch(half.parts)
        self.watched: Watched = self.watch.begin(RECORD, self.directory)

    def poll(self, after_seconds: float = 0) -> bool | None:
        self.half.clock.now += after_seconds
        return run(self.watch.ask(self.watched))


@pytest.fixture
def watching(half: FrontHalf) -> Watching:
    return Watching(half)


def groups_of_alice(event_id: str = "e1") -> PersonChange:
    return PersonChange(event_id, ChangeKind.GROUPS, NOW * 1000, subject="sub-of-alice")


@pytest.mark.requirement("trap-person-change")
def test_what_is_reported_is_acted_on(watching: Watching) -> None:
    alice = logged_in(watching.half, "alice")
    watching.directory.reported = [groups_of_alice()]
    assert watching.poll() is True
    assert epoch_of(watching.half, alice) == NOW


@pytest.mark.requirement("trap-person-change")
def test_what_is_new_concerns_who_came_before_it_though_the_provider_is_slow(
    watching: Watching,
) -> None:
    """Its clock is minutes behind ours: by it the change was before they came."""
    watching.poll()
    watching.half.clock.now += 300
    alice = logged_in(watching.half, "alice")
    watching.directory.reported = [groups_of_alice()]
    assert watching.poll(after_seconds=2) is True
    assert epoch_of(watching.half, alice) == NOW + 302


def test_what_is_read_back_leaves_who_came_after_it(watching: Watching) -> None:
    watching.half.clock.now += 300
    alice = logged_in(watching.half, "alice")
    watching.directory.reported = [groups_of_alice()]
    watching.directory.is_whole = False
    assert watching.poll(after_seconds=2) is False
    watching.directory.reported = [groups_of_alice("e2")]
    assert watching.poll() is False
    assert epoch_of(watching.half, alice) == 0


def test_a_new_process_reads_back_what_may_still_matter(watching: Watching) -> None:
    watching.poll()
    assert watching.directory.starts == [NOW * 1000 - READ_BACK_MS]


def test_cursors_move_only_with_a_poll_that_succeeded(watching: Watching) -> None:
    watching.poll()
    watching.directory.failure = ChangesUnavailableError("timeout")
    assert watching.poll() is None
    watching.directory.failure = None
    watching.poll()
    first, second, third = watching.directory.cursors
    assert first == {}
    assert second == third == {"admin": FeedCursor(1)}


def fails(watching: Watching, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database takes no cut."""

    async def refuse(*_: object) -> bool:
        raise DatabaseUnavailableError("the database did not accept the write")

    monkeypatch.setattr(watching.half.parts.person_cuts, "apply", refuse)
    monkeypatch.setattr(watching.half.parts.person_cuts, "apply_to_each", refuse)


def test_a_poll_whose_changes_could_not_be_applied_is_made_again(
    watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged_in(watching.half, "alice")
    fails(watching, monkeypatch)
    watching.directory.reported = [groups_of_alice()]
    assert watching.poll() is None
    monkeypatch.undo()
    assert watching.poll() is True
    assert watching.directory.cursors == [{}, {}]


def test_more_to_read_is_asked_for_at_once(watching: Watching) -> None:
    watching.directory.is_whole = False
    assert watching.poll() is False


@pytest.mark.requirement("trap-directory-silent")
def test_silence_for_longer_than_declared_cuts_everybody_off_and_nobody_logs_in(
    watching: Watching,
) -> None:
    alice, other = logged_in(watching.half, "alice"), logged_in(watching.half, "o", provider="x")
    watching.directory.failure = ChangesUnavailableError("unreachable")
    watching.poll(after_seconds=119)
    assert epoch_of(watching.half, alice) == 0
    assert "corp" not in watching.half.parts.unwatched
    watching.poll(after_seconds=2)
    assert epoch_of(watching.half, alice) > NOW
    assert epoch_of(watching.half, other) == 0
    assert "corp" in watching.half.parts.unwatched
    (event,) = watching.half.cuts(EventType.PERSON_CHANGED)
    assert event.reasons == ("person.unwatched",)


@pytest.mark.requirement("trap-directory-silent")
def test_an_answer_lets_people_log_in_again(watching: Watching) -> None:
    watching.directory.failure = ChangesUnavailableError("unreachable")
    watching.poll(after_seconds=121)
    assert "corp" in watching.half.parts.unwatched
    watching.directory.failure = None
    watching.poll(after_seconds=2)
    assert "corp" not in watching.half.parts.unwatched


def test_people_are_cut_off_once_in_one_silence_and_again_in_the_next(watching: Watching) -> None:
    logged_in(watching.half, "alice")
    for _ in range(2):
        watching.directory.failure = ChangesUnavailableError("unreachable")
        for _ in range(3):
            watching.poll(after_seconds=121)
        watching.directory.failure = None
        watching.poll()
    assert len(watching.half.cuts(EventType.PERSON_CHANGED)) == 2


def test_cutting_off_that_fails_is_tried_again_while_nobody_logs_in(
    watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = logged_in(watching.half, "alice")
    watching.directory.failure = ChangesUnavailableError("unreachable")
    fails(watching, monkeypatch)
    watching.poll(after_seconds=121)
    assert "corp" in watching.half.parts.unwatched
    monkeypatch.undo()
    watching.poll(after_seconds=2)
    assert epoch_of(watching.half, alice) > NOW
    assert len(watching.half.cuts(EventType.PERSON_CHANGED)) == 1


@pytest.mark.parametrize("error", [RuntimeError("a secret text"), TimeoutError(), KeyError("x")])
def test_whatever_goes_wrong_counts_as_silence_and_its_text_is_not_logged(
    watching: Watching, error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    watching.directory.failure = error
    assert watching.poll() is None
    out, err = capsys.readouterr()
    assert "a secret text" not in out + err
    assert type(error).__name__ in out + err


def test_silence_is_logged_once_a_minute_and_so_is_its_end(
    watching: Watching, capsys: pytest.CaptureFixture[str]
) -> None:
    watching.directory.failure = ChangesUnavailableError("tls")
    for _ in range(31):
        watching.poll(after_seconds=2)
    watching.directory.failure = None
    watching.poll()
    watching.poll()
    out, err = capsys.readouterr()
    assert (out + err).count("directory.silent") == 2
    assert (out + err).count("directory.answers") == 1


async def _turns(half: FrontHalf, directory: Directory, act: Any) -> None:
    """Run the watch for some turns of the loop, with sleeps that only give way."""
    half.logins = cast("Any", {"corp": cast("PersonLogin", directory)})

    async def give_way(_: float) -> None:
        await asyncio.sleep(0)

    task = asyncio.create_task(DirectoryWatch(half.parts, give_way).run())
    try:
        await act()
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def _until(condition: Any) -> None:
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never happened")


def declare(half: FrontHalf, *records: ProviderRecord) -> None:
    half.live.snapshot = msgspec.structs.replace(
        half.live.snapshot, identity_providers={each.name: each for each in records}
    )


def test_a_provider_is_asked_while_it_is_declared_and_no_longer(half: FrontHalf) -> None:
    directory = Directory()

    async def act() -> None:
        declare(half, RECORD)
        await _until(lambda: len(directory.cursors) > 3)
        declare(half)
        await asyncio.sleep(0.01)
        asked = len(directory.cursors)
        await asyncio.sleep(0.01)
        assert len(directory.cursors) == asked

    run(_turns(half, directory, act))


def test_a_provider_declared_anew_is_read_from_the_start(half: FrontHalf) -> None:
    directory = Directory()

    async def act() -> None:
        declare(half, RECORD)
        await _until(lambda: len(directory.cursors) > 3)
        declare(half, msgspec.structs.replace(RECORD, groups=("support",)))
        await _until(lambda: directory.cursors[1:].count({}) > 0)

    run(_turns(half, directory, act))


def test_a_provider_without_means_to_be_asked_is_not(half: FrontHalf) -> None:
    directory = Directory()
    directory.poll_seconds = None

    async def act() -> None:
        declare(half, RECORD)
        await asyncio.sleep(0.02)
        assert directory.cursors == []

    run(_turns(half, directory, act))
