"""Step 3 for both eras: one decode, then the ladder of the era the message speaks. Pure.

The era is a fact of each request, never of a connection or of the server behind the endpoint.
"""

from mcp_gateway import inbound
from mcp_gateway.eras.legacy import LegacyMessage, climb_legacy, is_legacy
from mcp_gateway.http_message import Headers
from mcp_gateway.inbound import Message, Rejection


def understand(headers: Headers, body: bytes) -> Message | LegacyMessage | Rejection:
    """The message of a POST in whichever era it speaks."""
    decoded = inbound.one_message(body)
    if isinstance(decoded, Rejection):
        return decoded
    if is_legacy(headers, decoded):
        return climb_legacy(headers, decoded)
    return inbound.climb(headers, decoded)
