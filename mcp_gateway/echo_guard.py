"""Keeps a credential from being echoed to the agent, also when it is split over chunks. Pure.

A reply goes through `pass_on` piece by piece. What could be the beginning of a trace is held back
until the next piece decides; the first trace found raises, so no part of a secret ever leaves.
"""

import re
from typing import Final

_UNICODE_ESCAPE: Final = re.compile(rb"\\u00([2-7][0-9A-Fa-f])")
_ESCAPE_LENGTH: Final = 6  # one character as \u00xx


class CredentialEchoError(Exception):
    """The reply contains the credential it was obtained with."""


class EchoGuard:
    """Searches one reply for the traces of one credential."""

    def __init__(self, traces: tuple[bytes, ...]) -> None:
        """Take `Credential.traces`."""
        self._traces = traces
        self._held = b""

    def require_clean(self, body: bytes) -> None:
        """Search a whole body.

        Raises:
            CredentialEchoError: it has a trace.
        """
        if any(trace in body for trace in self._traces):
            raise CredentialEchoError
        # JSON may spell any character as \u00xx (RFC 8259 §7): look behind that as well.
        if b"\\u00" in body:
            plain = _UNICODE_ESCAPE.sub(_unescaped, body)
            if any(trace in plain for trace in self._traces):
                raise CredentialEchoError

    def pass_on(self, chunk: bytes) -> bytes:
        """What may be sent now of everything received so far.

        Raises:
            CredentialEchoError: a trace is complete.
        """
        window = self._held + chunk
        self.require_clean(window)
        keep = self._undecided(window)
        self._held = window[len(window) - keep :]
        return window[: len(window) - keep]

    def rest(self) -> bytes:
        """What was held back and turned out harmless: the reply is over."""
        held, self._held = self._held, b""
        return held

    def _undecided(self, window: bytes) -> int:
        """The length of the longest end of `window` that could begin a trace.

        No trace and no JSON string contains a line end, so a complete event of a stream is never
        held back.
        """
        line = window[max(window.rfind(b"\n"), window.rfind(b"\r")) + 1 :]
        longest = 0
        for trace in self._traces:
            escaped = line[-_ESCAPE_LENGTH * len(trace) :]
            if b"\\u0" in escaped or escaped.endswith((b"\\", b"\\u")):
                longest = max(longest, len(escaped))
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


def _unescaped(match: re.Match[bytes]) -> bytes:
    return bytes.fromhex(match.group(1).decode("ascii"))
