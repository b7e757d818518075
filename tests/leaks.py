"""Finds a secret in recorded bytes, however it was spelt.

A secret is cut into windows of 16 bytes, so a part of it is found as well; each window is looked
for as it is, in hexadecimal, in base64 and base64url at all three alignments, and in UTF-16. What
is searched: the bytes; the bodies of HTTP messages without chunks and content encodings; every
gzip or zlib stream inside; and all of those with JSON, percent, HTML and backslash escapes undone
and white space removed, so that neither frames nor line breaks nor escapes hide anything.
"""

import base64
import gzip
import html
import io
import re
import sys
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

WINDOW: Final = 16
BLOCK: Final = 8  # bytes; wherever a needle of 15 bytes or more begins, it fills an aligned one
PIECE: Final = 262_144  # a multiple of the block
OVERLAP: Final = 256  # longer than any needle
MAXIMUM_INFLATED: Final = 8_388_608

_HEADERS_END: Final = b"\r\n\r\n"
_HEADER = re.compile(rb"\r\n([A-Za-z-]+):[ \t]*([^\r\n]*)")
_START = re.compile(rb"(?:HTTP/1\.[01] \d{3} |[A-Z]{3,7} /)[^\r\n]*\r\n")
_UNICODE_ESCAPE = re.compile(rb"\\u([0-9A-Fa-f]{4})")
_BYTE_ESCAPE = re.compile(rb"\\x([0-9A-Fa-f]{2})")
_SIMPLE_ESCAPE = re.compile(rb'\\([/"\\])')
_SPACE = re.compile(rb"\s+|\\[nrt]")
_HTML_ESCAPE = re.compile(rb"&#?\w{1,8};")
_COMPRESSED = re.compile(rb"\x1f\x8b\x08|\x78[\x01\x5e\x9c\xda]")


@dataclass(frozen=True, slots=True)
class Secret:
    """What must not be found, but in the `allowed` places."""

    name: str
    values: tuple[bytes, ...]
    allowed: frozenset[str]


@dataclass(frozen=True, slots=True)
class Sighting:
    """A secret at a place, in a spelling."""

    secret: str
    place: str
    spelling: str


def secret_of_jws(name: str, token: str, *allowed: str) -> Secret:
    """A signed token: its signature is what nobody can know otherwise."""
    signature = token.rpartition(".")[2]
    raw = base64.urlsafe_b64decode(signature + "=" * (-len(signature) % 4))
    return Secret(name, (signature.encode(), raw), frozenset(allowed))


def secret_of(name: str, value: str | bytes, *allowed: str) -> Secret:
    """Any other secret of at least 16 bytes."""
    data = value.encode() if isinstance(value, str) else value
    if len(data) < WINDOW:
        message = f"{name} is too short to be told from chance"
        raise ValueError(message)
    return Secret(name, (data,), frozenset(allowed))


class Detector:
    """Looks for a set of secrets."""

    def __init__(self, secrets: Iterable[Secret]) -> None:
        self.secrets = {secret.name: secret for secret in secrets}
        self._needles: dict[int, list[tuple[bytes, str, str]]] = {}
        for secret in self.secrets.values():
            for value in secret.values:
                for needle, spelling in spellings(value):
                    for block in {needle[at : at + BLOCK] for at in range(BLOCK)}:
                        found = self._needles.setdefault(_number(block), [])
                        found.append((needle, secret.name, spelling))

    def sightings(self, places: Iterable[tuple[str, bytes]]) -> set[Sighting]:
        """Every secret at every place, allowed or not."""
        found = set()
        for place, data in places:
            for view in views(data):
                for secret, spelling in self._in_view(view):
                    found.add(Sighting(secret, place, spelling))
        return found

    def leaks(self, sightings: Iterable[Sighting]) -> set[Sighting]:
        """Those that are where they must not be."""
        return {each for each in sightings if each.place not in self.secrets[each.secret].allowed}

    def _in_view(self, data: bytes) -> Iterator[tuple[str, str]]:
        for start in range(0, len(data), PIECE):
            piece = data[start : start + PIECE + OVERLAP]
            blocks = memoryview(piece)[: len(piece) // BLOCK * BLOCK].cast("Q")
            for block in self._needles.keys() & set(blocks):
                for needle, secret, spelling in self._needles[block]:
                    if needle in piece:
                        yield secret, spelling


def _number(block: bytes) -> int:
    return int.from_bytes(block, sys.byteorder)


def windows(value: bytes) -> Iterator[bytes]:
    """Windows such that every part of 31 bytes contains one."""
    for start in range(0, len(value) - WINDOW + 1, WINDOW):
        yield value[start : start + WINDOW]
    yield value[-WINDOW:]


def spellings(value: bytes) -> Iterator[tuple[bytes, str]]:
    """What a leak of `value` can look like, with the name of the spelling."""
    for window in windows(value):
        yield window, "raw"
        yield window.hex().encode(), "hex"
        yield window.hex().upper().encode(), "HEX"
        yield b"".join(bytes((byte, 0)) for byte in window), "utf-16"
        for offset in range(3):
            padded = bytes(offset) + window
            # Characters that hold bits of the window and of nothing else.
            first, last = -(-offset * 8 // 6), len(padded) * 8 // 6
            for encode, name in (
                (base64.b64encode, "base64"),
                (base64.urlsafe_b64encode, "base64url"),
            ):
                yield encode(padded)[first:last], f"{name}+{offset}"


def views(data: bytes) -> Iterator[bytes]:
    """`data` in every form worth searching."""
    seen = set()
    for base in (data, *http_bodies(data)):
        for inner in (base, *inflated(base)):
            for view in (inner, *unescaped(inner)):
                if view not in seen:
                    seen.add(view)
                    yield view


def unescaped(data: bytes) -> Iterator[bytes]:
    """With escapes undone in both orders, and without white space."""
    for steps in ((_json, _percent, _html), (_percent, _html, _json)):
        result = data
        for step in steps:
            result = step(result)
        yield result
        yield _SPACE.sub(b"", result)


def _json(data: bytes) -> bytes:
    result = _UNICODE_ESCAPE.sub(
        lambda match: chr(int(match[1], 16)).encode("utf-8", "surrogatepass"), data
    )
    result = _BYTE_ESCAPE.sub(lambda match: bytes((int(match[1], 16),)), result)
    return _SIMPLE_ESCAPE.sub(rb"\1", result)


def _percent(data: bytes) -> bytes:
    return unquote_to_bytes(data) if b"%" in data else data


def _html(data: bytes) -> bytes:
    return _HTML_ESCAPE.sub(
        lambda match: html.unescape(match[0].decode("latin-1")).encode("utf-8"), data
    )


def http_bodies(data: bytes) -> Iterator[bytes]:
    """Chunked or content-encoded bodies of the HTTP messages in a stream, as they were meant.

    A message is recognised by its start line anywhere, so nothing depends on where one ended.
    """
    for start in _START.finditer(data):
        end = data.find(_HEADERS_END, start.start())
        if end < 0:
            continue
        headers = {
            name.lower(): value.lower() for name, value in _HEADER.findall(data, start.start(), end)
        }
        body = data[end + len(_HEADERS_END) :]
        chunked = b"chunked" in headers.get(b"transfer-encoding", b"")
        if chunked:
            body = dechunked(body)
        elif length := headers.get(b"content-length", b""):
            body = body[: int(length)] if length.isdigit() else body
        for coding in reversed(headers.get(b"content-encoding", b"").split(b",")):
            if coding.strip() in {b"gzip", b"x-gzip", b"deflate"}:
                body = _inflate(body)
                chunked = True
        if chunked:
            yield body


def dechunked(data: bytes) -> bytes:
    """The content of a chunked body, as far as it goes (RFC 9112 §7.1)."""
    content, at = bytearray(), 0
    while (line_end := data.find(b"\r\n", at)) >= 0:
        try:
            size = int(data[at:line_end].partition(b";")[0], 16)
        except ValueError:
            break
        if size == 0:
            break
        content += data[line_end + 2 : line_end + 2 + size]
        at = line_end + 2 + size + 2
    return bytes(content)


def inflated(data: bytes) -> Iterator[bytes]:
    """Every gzip or zlib stream inside, uncompressed."""
    for match in _COMPRESSED.finditer(data):
        result = _inflate(data[match.start() :])
        if result:
            yield result


def _inflate(data: bytes) -> bytes:
    """gzip, zlib or raw deflate; what could be read of it, b"" if nothing."""
    for bits in (zlib.MAX_WBITS | 32, -zlib.MAX_WBITS):
        engine = zlib.decompressobj(bits)
        result = bytearray()
        try:
            for start in range(0, len(data), 1024):
                result += engine.decompress(data[start : start + 1024], MAXIMUM_INFLATED)
                if engine.eof or len(result) > MAXIMUM_INFLATED:
                    break
        except zlib.error:
            pass
        if result:
            return bytes(result)
    return b""


def gzipped(data: bytes) -> bytes:
    """For planting: a gzip member without a time."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as file:
        file.write(data)
    return buffer.getvalue()
