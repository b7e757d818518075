"""No secret is where it must not be: not on a wire, in a log, in a file or in a process.

The recorders are outside the product (`tests.taps`), the table of allowed places is
`tests.recorded_run.ALLOWED`, and the detector (`tests.leaks`) is proved three times: by its own
tests, by leaks planted into this very recording, and by leaks planted into the running product.
"""

from pathlib import Path
from typing import Final

import pytest

from tests.leaks import Detector, gzipped
from tests.recorded_run import (
    AGENT_TO_GATEWAY,
    ALLOWED,
    AUTHORITY_TO_AGENT,
    AUTHORITY_TO_GATEWAY,
    GATEWAY_TO_AGENT,
    GATEWAY_TO_AUTHORITY,
    GATEWAY_TO_CRM,
    GATEWAY_TO_NOTES,
    Recorded,
    recorded,
)
from tests.saboteurs.break_secrecy import LEAKS
from tests.test_leaks import PLANTS

pytestmark = [pytest.mark.processes, pytest.mark.requirement("attack-26")]

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return recorded(tmp_path_factory.mktemp("canary"))


@pytest.fixture(scope="module")
def detector(run: Recorded) -> Detector:
    return Detector(run.secrets)


@pytest.mark.timeout(300)
def test_canary_no_secret_is_found_outside_its_places(run: Recorded, detector: Detector) -> None:
    sightings = detector.sightings(run.places)
    assert detector.leaks(sightings) == set()
    # The recorders really saw: every secret is found where it is allowed, in every one of its
    # places that each of its kind must pass.
    where = {(each.secret, each.place) for each in sightings}
    for secret in run.secrets:
        seen = {place for name, place in where if name == secret.name}
        assert seen or not secret.allowed, f"nobody saw {secret.name}"
    for kind, places in ALLOWED.items():
        if places:
            of_kind = {place for name, place in where if name.startswith(kind)}
            assert of_kind == set(places), kind


def test_canary_recording_has_every_place_and_every_kind_of_secret(run: Recorded) -> None:
    names = {place for place, data in run.places if data}
    for place in (
        AGENT_TO_GATEWAY,
        GATEWAY_TO_AGENT,
        GATEWAY_TO_CRM,
        "crm>gateway",
        GATEWAY_TO_NOTES,
        "notes>gateway",
        GATEWAY_TO_AUTHORITY,
        AUTHORITY_TO_GATEWAY,
        AUTHORITY_TO_AGENT,
        "file:serve.log",
        "file:data/countersign.db",
        "file:data/countersign.db-wal",
        "file:gateway/enrolment.json",
        "process:cmdline",
        "process:environ",
    ):
        assert place in names, place
    for spool in ("file:data/spool/", "file:gateway/spool/"):
        assert any(name.startswith(spool) for name in names), spool
    for kind in ALLOWED:
        assert any(secret.name.startswith(kind) for secret in run.secrets), kind
    kinds = [secret.name.rpartition(" ")[0] for secret in run.secrets]
    assert kinds.count("agent token") == 3
    assert kinds.count("target token") >= 2  # one for each person
    kept = b"".join(data for place, data in run.places if place == GATEWAY_TO_AGENT)
    assert b"text/event-stream" in kept
    assert b"Agents may not refund more than 500." in kept


PLANTED_AT = (GATEWAY_TO_AGENT, "notes>gateway", "file:serve.log", "file:data/countersign.db")


@pytest.mark.parametrize("spelling", PLANTS)
def test_canary_leak_planted_into_the_recording_is_found(
    run: Recorded, detector: Detector, spelling: str
) -> None:
    plant = PLANTS[spelling]
    for kind in ("agent token", "target token", "notes key", "password"):
        secret = next(each for each in run.secrets if each.name.startswith(kind))
        for place in PLANTED_AT:
            around = next(data for name, data in run.places if name == place and data)[:2_000]
            planted = around + b"\r\n" + plant(secret.values[0]) + b"\r\n" + around
            leaks = detector.leaks(detector.sightings([(place, planted)]))
            assert {(each.secret, each.place) for each in leaks} == {(secret.name, place)}


def test_canary_leak_planted_across_frames_and_in_a_compressed_file_is_found(
    run: Recorded, detector: Detector
) -> None:
    """A tap appends what each `recv` gave: frames do not exist in a recording."""
    secret = next(each for each in run.secrets if each.name.startswith("target token"))
    stream = bytearray()
    for at in range(0, len(secret.values[0]), 3):
        stream += secret.values[0][at : at + 3]
    for planted in (bytes(stream), b"\0" * 4096 + gzipped(bytes(stream))):
        assert detector.leaks(detector.sightings([(GATEWAY_TO_AGENT, planted)]))


LEAKED: Final = {  # what each of `LEAKS` lets out, and where
    "agent token, base64, in a log": ("agent token", "file:serve.log"),
    "target token, gzip, in a file": ("target token", "file:gateway/credentials.cache"),
    "notes key, percent-encoded, in an answer": ("notes key", GATEWAY_TO_AGENT),
    "password, hex, in the audit": ("password", "file:data/countersign.db"),
}


@pytest.mark.timeout(300)
def test_canary_leaks_planted_into_the_product_are_found_and_nothing_else(tmp_path: Path) -> None:
    """All in one run: each leaks another kind of secret, so each is told from the others."""
    assert LEAKED.keys() == LEAKS.keys()
    path = f"{REPOSITORY / 'tests' / 'saboteurs' / 'leaks'}:{REPOSITORY}"
    leaking = recorded(tmp_path, {"PYTHONPATH": path, "LEAKS": "planted"})
    sabotaged = Detector(leaking.secrets)
    leaks = sabotaged.leaks(sabotaged.sightings(leaking.places))
    for leak, (kind, place) in LEAKED.items():
        found = [each for each in leaks if each.secret.startswith(kind)]
        assert any(each.place.startswith(place) for each in found), leak
    kinds = {each.secret.rstrip("0123456789 ").split(" of ")[0] for each in leaks}
    assert kinds <= {"password mistyped", *(kind for kind, _ in LEAKED.values())}
