import asyncio
from dataclasses import replace
from typing import Any

import pytest
from joserfc.jwk import OKPKey
from pydantic import ValidationError

from credential_providers.catalog import CredentialProviders
from credential_providers.request import CredentialRequest, IssuedCredential
from credential_providers.static_secret import StaticSecretSettings
from credential_providers.vault.seal import unseal_credential
from tests.credential_providers.samples import (
    CONTROL,
    GATEWAY_KEY,
    VAULT_KEY,
    Secrets,
    parts,
    plan,
    provider,
    request,
)
from token_exchange.claims import Refusal

BEARER = {"secret": "notes-key"}


def asked(settings: dict[str, Any], **changes: Any) -> CredentialRequest:
    return request(plan(**changes), provider("static_secret", settings))


def issue(question: CredentialRequest, secrets: Secrets) -> IssuedCredential | Refusal:
    return asyncio.run(CredentialProviders(parts(secrets)).issue(question))


def released(settings: dict[str, Any], value: str) -> tuple[str, str]:
    answer = issue(asked(settings), Secrets(**{settings["secret"]: value}))
    assert isinstance(answer, IssuedCredential)
    assert answer.credential_value is not None
    opened = unseal_credential(answer.credential_value, GATEWAY_KEY.as_dict(private=True))
    assert not isinstance(opened, Refusal)
    return opened


@pytest.mark.parametrize(
    ("settings", "header", "value"),
    [
        (BEARER, "Authorization", "Bearer k-123456"),
        (BEARER | {"scheme": "basic"}, "Authorization", "Basic k-123456"),
        (BEARER | {"header": "X-Api-Key"}, "X-Api-Key", "k-123456"),
        (BEARER | {"header": "X-Api-Key", "scheme": "token"}, "X-Api-Key", "Token k-123456"),
        (BEARER | {"scheme": "none"}, "Authorization", "k-123456"),
    ],
)
def test_static_secret_reaches_only_the_gateway_as_the_declared_header(
    settings: dict[str, Any], header: str, value: str
) -> None:
    assert released(settings, "k-123456") == (header, value)


@pytest.mark.requirement("attack-26")
def test_static_secret_is_nowhere_in_the_answer_in_the_clear() -> None:
    answer = issue(asked(BEARER), Secrets(**{"notes-key": "canary-secret-0001"}))
    assert isinstance(answer, IssuedCredential)
    assert "canary" not in repr(answer)
    assert answer.token_type == "N_A"
    assert answer.credential_value is not None
    assert isinstance(
        unseal_credential(answer.credential_value, VAULT_KEY.as_dict(private=True)), Refusal
    )


@pytest.mark.requirement("trap-header-injection")
@pytest.mark.parametrize(
    "value",
    ["k9\r\nX: 1", "k9\nb", "k9\0b", "k9 b", " k9", "k9 ", "", "schlüssel", "k9\tb", "\x7f"],
)
def test_static_secret_with_characters_a_scheme_cannot_carry_is_refused(value: str) -> None:
    answer = issue(asked(BEARER), Secrets(**{"notes-key": value}))
    assert isinstance(answer, Refusal)
    assert answer.rule == "static_secret.value"
    assert "k9" not in answer.detail + answer.description


@pytest.mark.requirement("attack-26")
@pytest.mark.parametrize(("value", "is_long_enough"), [("k9x4z", False), ("k9x4zq", True)])
def test_static_secret_too_short_to_be_found_in_a_reply_is_refused(
    value: str, is_long_enough: bool
) -> None:
    answer = issue(asked(BEARER), Secrets(**{"notes-key": value}))
    assert isinstance(answer, IssuedCredential) is is_long_enough
    if isinstance(answer, Refusal):
        assert answer.rule == "static_secret.short"
        assert value not in answer.detail + answer.description


def test_static_secret_with_inner_spaces_is_fine_without_a_scheme() -> None:
    settings = BEARER | {"header": "X-Api-Key"}
    assert released(settings, "id one two") == ("X-Api-Key", "id one two")


@pytest.mark.parametrize("value", ["a\r\nb", " a", "a\n"])
def test_static_secret_without_a_scheme_still_refuses_line_breaks_and_outer_spaces(
    value: str,
) -> None:
    answer = issue(asked(BEARER | {"header": "X-Api-Key"}), Secrets(**{"notes-key": value}))
    assert isinstance(answer, Refusal)


@pytest.mark.parametrize(
    "header",
    ["Host", "content-length", "Transfer-Encoding", "Mcp-Session-Id", "Proxy-Authorization",
     "Cookie", "DPoP", "X-Forwarded-For", "bad header", "X:Y", "X\n", "", "Ünicode"],
)  # fmt: skip
def test_settings_with_a_header_that_frames_or_routes_are_refused(header: str) -> None:
    with pytest.raises(ValidationError, match="header"):
        StaticSecretSettings(secret="notes-key", header=header)


@pytest.mark.parametrize("header", ["Authorization", "X-Api-Key", "Private-Token", "apikey"])
def test_settings_with_a_header_for_credentials_are_accepted(header: str) -> None:
    assert StaticSecretSettings(secret="notes-key", header=header).header == header


@pytest.mark.parametrize(
    "wrong", [{}, {"secret": "Notes"}, {"secret": "a\n"}, BEARER | {"value": "k-123456"}]
)
def test_settings_that_are_unknown_or_no_reference_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        StaticSecretSettings.model_validate(wrong)


def test_static_secret_that_is_absent_is_refused() -> None:
    answer = issue(asked(BEARER), Secrets())
    assert isinstance(answer, Refusal)
    assert answer.rule == "vault.absent"


@pytest.mark.parametrize("key", [None, OKPKey.generate_key("X25519").as_dict(private=False)])
def test_static_secret_without_a_usable_gateway_key_is_refused(key: dict[str, Any] | None) -> None:
    secrets = Secrets(**{"notes-key": "k-123456"})
    answer = issue(replace(asked(BEARER), recipient_key=key), secrets)
    assert isinstance(answer, Refusal)
    assert answer.rule == "static_secret.recipient"


def test_static_secret_for_an_expired_subject_is_refused_before_the_vault_is_opened() -> None:
    secrets = Secrets(**{"notes-key": "k-123456"})
    answer = issue(asked(BEARER, expires_at=0), secrets)
    assert isinstance(answer, Refusal)
    assert secrets.opened == []


def test_static_secret_for_discovery_names_the_gateway_and_is_short() -> None:
    question = request(plan(CONTROL, kind="discovery"), provider("static_secret", BEARER))
    answer = issue(question, Secrets(**{"notes-key": "k-123456"}))
    assert isinstance(answer, IssuedCredential)
    assert answer.claims.sub == "gateway:demo"
    assert answer.claims.exp - answer.claims.iat == 60
