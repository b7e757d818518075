"""What one push carries: events of one source, exactly as they lie in the spool."""

from dataclasses import dataclass

import msgspec

from audit_log.event import AuditBatch, AuditEvent

_encode = msgspec.json.Encoder().encode
_decode_event = msgspec.json.Decoder(AuditEvent).decode


@dataclass(frozen=True, slots=True)
class Batch:
    """Events of one source in order, still encoded. `high_water`: what that source appended."""

    source: str
    high_water: int
    payloads: tuple[bytes, ...]

    @property
    def body(self) -> bytes:
        """The JSON of an `AuditBatch`, for POST to the control channel."""
        head = _encode({"source": self.source, "high_water": self.high_water})
        return head[:-1] + b',"events":[' + b",".join(self.payloads) + b"]}"

    @property
    def decoded(self) -> AuditBatch:
        """The same as values, for a store in this process."""
        events = tuple(_decode_event(payload) for payload in self.payloads)
        return AuditBatch(self.source, self.high_water, events)
