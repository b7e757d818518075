r"""Keeps a credential from being echoed to the agent, also when it is split over chunks. Pure.

A reply goes through `pass_on` piece by piece. What could be the beginning of a trace is held back
until the next piece decides; the first trace found raises, so no part of a secret ever leaves.

JSON may spell a character as `\u00xx` or behind a backslash (RFC 8259 §7), and JSON inside a JSON
string does it twice. So whatever has a backslash is searched again with every such escape decoded
and every backslash gone, for the traces without theirs.
"""

import re
from typing import Final

from mcp_gateway.upstream.protocol import UpstreamInvalidError

# Printable ASCII needs no such escape. Go writes `<`, `>` and `&` so; more than this is a way to
# keep us busy.
MAXIMUM_NEEDLESS_ESCAPES: Final = 500_000
_MINIMUM_PLAIN_LENGTH: Final = 6
_UNICODE_ESCAPE: Final = re.compile(rb"\\u00([2-7][0-9A-Fa-f])")
_CHARACTER: Final = {
    f"{high}{low}".encode(): bytes((int(f"{high}{low}", 16),))
    for high in "234567"
    for low in "0123456789abcdefABCDEF"
}
_PASSES: Final = 3  # an escape may spell the backslash of another one
_ESCAPE_LENGTH: Final = 11  # one character, its backslash spelled out: `\\u005cu00xx`


class CredentialEchoError(Exception):
    """The reply contains the credential it was obtained with."""


class EchoGuard:
    """Searches one reply for the traces of one credential."""

    def __init__(self, traces: tuple[bytes, ...]) -> None:
        """Take `Credential.traces`."""
        self._traces = traces
        without = {trace.replace(b"\\", b"") for trace in traces}
        self._plain_traces = tuple(
            trace for trace in sorted(without) if len(trace) >= _MINIMUM_PLAIN_LENGTH
        )
        self._held = b""
        self._escapes = 0

    def require_clean(self, body: bytes) -> None:
        """Search a whole body.

        Raises:
            CredentialEchoError: it has a trace.
            UpstreamInvalidError: it has so many needless escapes that it must not be searched.
        """
        if any(trace in body for trace in self._traces):
            raise CredentialEchoError
        if b"\\" in body:
            plain = self._plain(body)
            if any(trace in plain for trace in self._plain_traces):
                raise CredentialEchoError

    def pass_on(self, chunk: bytes) -> bytes:
        """What may be sent now of everything received so far.

        Raises:
            CredentialEchoError: a trace is complete.
            UpstreamInvalidError: as `require_clean`.
        """
        window = self._held + chunk
        self.require_clean(window)
        keep = self._undecided(window)
        self._held = window[len(window) - keep :]
        self._escapes -= len(_UNICODE_ESCAPE.findall(self._held))  # these are searched again
        return window[: len(window) - keep]

    def rest(self) -> bytes:
        """What was held back and turned out harmless: the reply is over."""
        held, self._held = self._held, b""
        return held

    def _plain(self, body: bytes) -> bytes:
        """The body as its innermost reader would see it, near enough to search."""
        for _ in range(_PASSES):
            if b"\\u00" not in body:
                break
            pieces = _UNICODE_ESCAPE.split(body)  # text, code, text, code, ..., text
            if len(pieces) == 1:
                break
            self._escapes += len(pieces) // 2
            if self._escapes > MAXIMUM_NEEDLESS_ESCAPES:
                raise UpstreamInvalidError("the reply has too many needless escapes")
            pieces[1::2] = map(_CHARACTER.__getitem__, pieces[1::2])
            body = b"".join(pieces)
        return body.replace(b"\\", b"")

    def _undecided(self, window: bytes) -> int:
        """The length of the longest end of `window` that could begin a trace.

        No trace and no JSON string contains a line end, so a complete event of a stream is never
        held back.
        """
        line = window[max(window.rfind(b"\n"), window.rfind(b"\r")) + 1 :]
        longest = 0
        for trace in self._traces:
            end = line[-_ESCAPE_LENGTH * len(trace) :]
            if b"\\" in end:
                longest = max(longest, len(end))
                continue
            longest = max(longest, _overlap(line[-len(trace) + 1 :], trace))
        return longest


def _overlap(end: bytes, trace: bytes) -> int:
    position = end.find(trace[:1])
    while position != -1:
        if trace.startswith(end[position:]):
            return len(end) - position
        position = end.find(trace[:1], position + 1)
    return 0
