"""The leak detector finds a secret in every spelling, and nothing where nothing is."""

import base64
import json
import secrets
import zlib
from collections.abc import Callable
from urllib.parse import quote

import pytest

from tests.leaks import Detector, Secret, gzipped, secret_of, secret_of_jws

SECRET = "k3-" + "".join(chr(97 + (index * 7) % 26) for index in range(40)) + "/+=&"
PLACE = "log"

Plant = Callable[[bytes], bytes]


def chunked(data: bytes, size: int = 5) -> bytes:
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n"


def encoded(data: bytes, coding: str) -> bytes:
    head = f"HTTP/1.1 200 OK\r\ncontent-encoding: {coding}\r\ncontent-length: {len(data)}\r\n\r\n"
    return head.encode() + data


def raw_deflate(data: bytes) -> bytes:
    engine = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return engine.compress(data) + engine.flush()


PLANTS: dict[str, Plant] = {
    "raw": lambda data: data,
    "first half": lambda data: data[: len(data) // 2 + 8],
    "last half": lambda data: data[-(len(data) // 2 + 8) :],
    "base64": base64.b64encode,
    "base64 after one byte": lambda data: base64.b64encode(b"x" + data),
    "base64 after two bytes": lambda data: base64.b64encode(b"xy" + data),
    "base64url": base64.urlsafe_b64encode,
    "base64 in lines": lambda data: base64.encodebytes(b"x" * 40 + data),
    "Basic": lambda data: b"Authorization: Basic " + base64.b64encode(b"user:" + data),
    "hex": lambda data: data.hex().encode(),
    "HEX": lambda data: data.hex().upper().encode(),
    "percent": lambda data: quote(data, safe="").encode(),
    "percent of everything": lambda data: "".join(f"%{byte:02X}" for byte in data).encode(),
    "JSON": lambda data: json.dumps({"leak": data.decode("latin-1")}).encode(),
    "JSON of everything": lambda data: "".join(f"\\u{byte:04x}" for byte in data).encode(),
    "JSON with slashes": lambda data: data.replace(b"/", rb"\/"),
    "JSON in percent": lambda data: quote(
        "".join(f"\\u{byte:04x}" for byte in data), safe=""
    ).encode(),
    "base64 in percent": lambda data: quote(base64.b64encode(data), safe="").encode(),
    "HTML": lambda data: "".join(f"&#x{byte:x};" for byte in data).encode(),
    "repr": lambda data: repr(bytes(byte ^ 0 for byte in data)).encode(),
    "utf-16": lambda data: data.decode("latin-1").encode("utf-16-le"),
    "over lines": lambda data: b"\n  ".join(data[at : at + 7] for at in range(0, len(data), 7)),
    "chunks": chunked,
    "chunks of base64": lambda data: chunked(base64.b64encode(data)),
    "gzip": lambda data: encoded(gzipped(b"before " + data), "gzip"),
    "zlib": lambda data: encoded(zlib.compress(data), "deflate"),
    "deflate": lambda data: encoded(raw_deflate(data), "deflate"),
    "gzip in chunks": lambda data: chunked(gzipped(data)).replace(
        b"\r\n\r\n", b"\r\ncontent-encoding: gzip\r\n\r\n", 1
    ),
    "gzip inside a file": lambda data: b"\0" * 99 + gzipped(data) + b"\0" * 99,
}


@pytest.mark.requirement("attack-26")
@pytest.mark.parametrize("spelling", PLANTS)
def test_leak_planted_in_a_spelling_is_found(spelling: str) -> None:
    detector = Detector([secret_of("the key", SECRET, "elsewhere")])
    noise = secrets.token_bytes(300)
    planted = PLANTS[spelling](SECRET.encode())
    found = detector.sightings([(PLACE, noise + b"\r\n" + planted + b"\r\n" + noise)])
    assert {(each.secret, each.place) for each in detector.leaks(found)} == {("the key", PLACE)}


@pytest.mark.requirement("attack-26")
@pytest.mark.parametrize("spelling", ["raw", "base64", "hex", "repr", "gzip"])
def test_leak_of_binary_key_material_is_found(spelling: str) -> None:
    key = bytes(range(7, 255, 8)) + b"\x80"
    detector = Detector([secret_of("a key", key)])
    assert detector.sightings([(PLACE, b"x: " + PLANTS[spelling](key))])


@pytest.mark.requirement("attack-26")
def test_leak_of_a_tokens_signature_alone_is_found() -> None:
    signature = secrets.token_bytes(64)
    token = "e30.e30." + base64.urlsafe_b64encode(signature).rstrip(b"=").decode()
    detector = Detector([secret_of_jws("token", token, "answer")])
    for planted in (token.encode(), base64.b64encode(signature), signature.hex().encode()):
        assert detector.leaks(detector.sightings([(PLACE, planted)]))


def test_leak_at_an_allowed_place_is_a_sighting_and_no_leak() -> None:
    detector = Detector([secret_of("the key", SECRET, PLACE)])
    found = detector.sightings([(PLACE, SECRET.encode())])
    assert found
    assert not detector.leaks(found)


def test_leak_across_pieces_of_a_large_file_is_found() -> None:
    detector = Detector([secret_of("the key", SECRET)])
    for shift in (0, 5, 11, 20, 47):
        before = b"\0" * (262_144 - shift)
        assert detector.sightings([(PLACE, before + SECRET.encode() + b"\0" * 99)])


def test_leak_detector_finds_nothing_in_noise_or_in_what_resembles_the_secret() -> None:
    detector = Detector([secret_of("the key", SECRET)])
    similar = SECRET[:15] + "#" + SECRET[16:31] + "#" + SECRET[32:]
    noise = secrets.token_bytes(100_000)
    assert not detector.sightings([(PLACE, noise), (PLACE, similar.encode())])


def test_leak_detector_refuses_a_secret_too_short_to_tell_from_chance() -> None:
    with pytest.raises(ValueError, match="too short"):
        secret_of("pin", "1234")
    assert isinstance(secret_of("fine", "x" * 16), Secret)
