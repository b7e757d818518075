import base64
import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_gateway.credential import bearer_credential, traces_of
from mcp_gateway.echo_guard import CredentialEchoError, EchoGuard
from mcp_gateway.upstream.protocol import UpstreamInvalidError
from tests.mcp_gateway.rig import TARGET_TOKEN, FakeReply, Rig

SECRETS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=8, max_size=40)


def spellings(secret: str) -> list[bytes]:
    raw = secret.encode()
    return [
        raw,
        json.dumps({"a": secret}).encode(),
        json.dumps(secret).replace("/", "\\/").encode(),
        "".join(f"\\u{ord(character):04x}" for character in secret).encode(),
        json.dumps({"inner": json.dumps({"a": secret})}).encode(),
        json.dumps("".join(f"\\u{ord(character):04x}" for character in secret)).encode(),
        "".join(f"\\u005cu{ord(character):04x}" for character in secret).encode(),
        json.dumps(json.dumps(secret).replace("/", "\\/")).encode(),
        quote(secret, safe="").encode(),
        raw.hex().encode(),
        *(base64.b64encode(b"x" * shift + raw + b"yz") for shift in range(3)),
        *(base64.urlsafe_b64encode(b"x" * shift + raw) for shift in range(3)),
    ]


def passes(guard: EchoGuard, chunks: list[bytes]) -> bytes:
    return b"".join([*(guard.pass_on(chunk) for chunk in chunks), guard.rest()])


@pytest.mark.requirement("credential-never-echoed")
@given(SECRETS, st.integers(min_value=0), st.data())
def test_secret_in_any_spelling_is_found_however_it_is_split(
    secret: str, which: int, data: st.DataObject
) -> None:
    every = spellings(secret)
    text = b"before " + every[which % len(every)] + b" after"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    chunks = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    guard = EchoGuard(traces_of(secret))
    with pytest.raises(CredentialEchoError):
        passes(guard, chunks)


@pytest.mark.requirement("credential-never-echoed")
def test_nothing_of_a_secret_leaves_before_it_is_recognised() -> None:
    secret = "s3cr3t-value-0123456789"
    guard = EchoGuard(traces_of(secret))
    sent: list[bytes] = []

    def send_by_bytes() -> None:
        for byte in b"the key is " + secret.encode():
            sent.append(guard.pass_on(bytes([byte])))  # noqa: PERF401 - it ends in the middle

    with pytest.raises(CredentialEchoError):
        send_by_bytes()
    assert b"".join(sent) == b"the key is "


@given(st.lists(st.binary(max_size=20), max_size=8))
def test_reply_without_the_secret_passes_unchanged(chunks: list[bytes]) -> None:
    guard = EchoGuard(traces_of("a-secret-that-is-not-in-there"))
    assert passes(guard, chunks) == b"".join(chunks)


def test_whole_line_is_never_held_back() -> None:
    guard = EchoGuard(traces_of("data-data-data-data"))
    assert guard.pass_on(b"data: data-data\\u003c\n\n") == b"data: data-data\\u003c\n\n"


def test_token_without_its_signature_is_no_secret_and_the_signature_is() -> None:
    credential = bearer_credential(TARGET_TOKEN, None)
    assert credential is not None
    header, payload, signature = TARGET_TOKEN.split(".")
    EchoGuard(credential.traces).require_clean(f"{header}.{payload}".encode())
    with pytest.raises(CredentialEchoError):
        EchoGuard(credential.traces).require_clean(signature.encode())
    assert TARGET_TOKEN not in repr(credential)


@pytest.mark.parametrize("value", ["Bearer abcdefghij", "Token abcdefghij", "abcdefghij"])
def test_scheme_before_a_secret_is_not_part_of_it(value: str) -> None:
    assert b"abcdefghij" in traces_of(value)


@pytest.mark.anyio
@pytest.mark.requirement("credential-never-echoed")
async def test_reply_that_echoes_the_credential_is_withheld(rig: Rig) -> None:
    result = {"content": [{"type": "text", "text": f"Authorization: Bearer {TARGET_TOKEN}"}]}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "result": result}).encode()
    rig.upstream.will(FakeReply(body=(body[:120], body[120:])))
    exchange = await rig.call("get_account", {"id": 1})
    assert exchange.status == 502
    assert TARGET_TOKEN.encode() not in exchange.body
    assert exchange.json["error"]["code"] == -32007
    assert rig.events("call.finished")[-1].error_code == "credential_echoed"


@pytest.mark.anyio
@pytest.mark.requirement("credential-never-echoed")
async def test_long_reply_that_echoes_the_credential_is_withheld(rig: Rig) -> None:
    filler = b'{"jsonrpc":"2.0","id":1,"result":{"text":"' + b"x" * 300_000
    token = TARGET_TOKEN.encode()
    rig.upstream.will(FakeReply(body=(filler, token[:100], token[100:], b'"}}')))
    exchange = await rig.call("get_account", {"id": 1})
    assert (exchange.status, exchange.json["error"]["code"]) == (502, -32007)
    assert token.rpartition(b".")[2][:8] not in exchange.body
    assert rig.events("call.finished")[-1].error_code == "credential_echoed"


@pytest.mark.anyio
@pytest.mark.requirement("credential-never-echoed")
async def test_event_stream_that_echoes_the_credential_is_ended_with_an_error(rig: Rig) -> None:
    first = b'data: {"jsonrpc":"2.0","method":"notifications/message","params":{}}\n\n'
    token = TARGET_TOKEN.encode()
    rig.upstream.will(
        FakeReply(
            media_type="text/event-stream",
            body=(first, b'data: {"jsonrpc":"2.0","id":1,"result":{"t":"', token, b'"}}\n\n'),
        )
    )
    exchange = await rig.call("get_account", {"id": 1})
    assert exchange.body.startswith(b"event: message\n" + first)
    assert token not in exchange.body
    assert b'"code":-32007' in exchange.body
    assert exchange.is_finished


def test_reply_of_needless_escapes_is_given_up_and_a_page_of_html_is_not() -> None:
    page = b"\\u003cp\\u003e caf\\u00e9 \\u003c/p\\u003e" * 20_000
    guard = EchoGuard(traces_of("a-secret-that-is-not-in-there"))
    pieces = [page[start : start + 1000] for start in range(0, len(page), 1000)]
    assert passes(guard, pieces) == page
    with pytest.raises(UpstreamInvalidError):
        EchoGuard(traces_of("another-secret")).require_clean(b"\\u0061" * 500_001)


@pytest.mark.requirement("credential-never-echoed")
@pytest.mark.parametrize(
    ("pair", "echoes", "harmless"),
    [
        ("support:pa55word-of/it", ("pa55word-of/it", "support:pa55word-of/it"), "support"),
        ("key-0123456789abcdef:x", ("key-0123456789abcdef",), "key-0123"),
        ("apikey01:", ("apikey01",), "apikey"),
    ],
)
def test_basic_credential_is_found_by_its_halves(
    pair: str, echoes: tuple[str, ...], harmless: str
) -> None:
    value = f"Basic {base64.b64encode(pair.encode()).decode()}"
    for echo in (value, *echoes):
        for text in (echo, json.dumps(echo), json.dumps(json.dumps({"a": echo}))):
            with pytest.raises(CredentialEchoError):
                EchoGuard(traces_of(value)).require_clean(text.encode())
    EchoGuard(traces_of(value)).require_clean(harmless.encode())
    assert traces_of("Basic not-base64!")
