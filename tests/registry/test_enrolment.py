"""Codes are single use, short lived and stored as hashes; only public ES256 keys enrol."""

import asyncio
from collections.abc import Callable

import pytest
from joserfc.jwk import ECKey, OKPKey, RSAKey

from database.engine import Database
from registry.enrolment import CODE_LIFETIME_SECONDS, EnrolmentStore
from registry.public_keys import InvalidKeyError, public_jwk, thumbprint_of
from tests.databases import everything_in

NOW = 1_700_000_000


def new_jwk() -> dict[str, object]:
    return dict(ECKey.generate_key("P-256").as_dict(private=False))


@pytest.fixture
def enrolment(database: Database) -> EnrolmentStore:
    return EnrolmentStore(database)


def code_for(enrolment: EnrolmentStore, gateway: str = "demo") -> str:
    return asyncio.run(enrolment.create_code(gateway, "local:0", NOW))


def consume(
    enrolment: EnrolmentStore, code: str, jwk: dict[str, object], now: int = NOW
) -> str | None:
    return asyncio.run(enrolment.consume_code(code, jwk, now))


@pytest.mark.requirement("trap-enrolment-code")
def test_code_enrols_a_key_into_its_gateway_once(enrolment: EnrolmentStore) -> None:
    code = code_for(enrolment)
    jwk = new_jwk()
    assert consume(enrolment, code, jwk) == "demo"
    assert consume(enrolment, code, new_jwk()) is None
    (key,) = enrolment.enrolled()
    assert (key.gateway, key.thumbprint, key.enrolled_at) == ("demo", thumbprint_of(jwk), NOW)
    assert key.jwk["kid"] == thumbprint_of(jwk)


@pytest.mark.requirement("trap-enrolment-code")
def test_code_is_good_until_it_expires(enrolment: EnrolmentStore) -> None:
    first = asyncio.run(enrolment.create_code("demo", "local:0", NOW))
    assert consume(enrolment, first, new_jwk(), NOW + CODE_LIFETIME_SECONDS) is None
    second = asyncio.run(enrolment.create_code("demo", "local:0", NOW))
    assert consume(enrolment, second, new_jwk(), NOW + CODE_LIFETIME_SECONDS - 1) == "demo"


def test_wrong_code_is_refused_and_burns_nothing(enrolment: EnrolmentStore) -> None:
    code = code_for(enrolment)
    for wrong in ("", "x", code + "x", code.lower(), code[:-1]):
        assert consume(enrolment, wrong, new_jwk()) is None
    assert consume(enrolment, code, new_jwk()) == "demo"


@pytest.mark.requirement("trap-enrolment-code")
def test_code_has_256_bits_and_only_its_hash_is_stored(
    enrolment: EnrolmentStore, database: Database
) -> None:
    code = code_for(enrolment)
    assert len(code) == 43
    assert code.encode() not in everything_in(database)


@pytest.mark.requirement("trap-one-winner")
@pytest.mark.requirement("trap-enrolment-code")
def test_twenty_parallel_uses_of_one_code_enrol_one_key(
    enrolment: EnrolmentStore, open_database: Callable[[], Database]
) -> None:
    code = code_for(enrolment)
    stores = [enrolment, EnrolmentStore(open_database())]

    async def scenario() -> list[str | None]:
        return await asyncio.gather(
            *(stores[n % 2].consume_code(code, new_jwk(), NOW) for n in range(20))
        )

    assert sorted(asyncio.run(scenario()), key=str) == [None] * 19 + ["demo"]
    assert len(enrolment.enrolled()) == 1


def test_key_enrolled_again_moves_to_the_other_gateway(enrolment: EnrolmentStore) -> None:
    jwk = new_jwk()
    for gateway in ("demo", "second"):
        assert consume(enrolment, code_for(enrolment, gateway), jwk) == gateway
    assert [key.gateway for key in enrolment.enrolled()] == ["second"]


def remove(enrolment: EnrolmentStore, gateway: str, jwk: dict[str, object]) -> bool:
    return asyncio.run(enrolment.remove_key(gateway, thumbprint_of(jwk), lambda _: None))


def test_removed_key_is_gone_and_removing_again_says_so(enrolment: EnrolmentStore) -> None:
    jwk, kept = new_jwk(), new_jwk()
    for each in (jwk, kept):
        consume(enrolment, code_for(enrolment), each)
    assert not remove(enrolment, "second", jwk)
    assert remove(enrolment, "demo", jwk)
    assert not remove(enrolment, "demo", jwk)
    assert [key.thumbprint for key in enrolment.enrolled()] == [thumbprint_of(kept)]


def test_key_is_removed_with_its_record_or_not_at_all(enrolment: EnrolmentStore) -> None:
    jwk = new_jwk()
    consume(enrolment, code_for(enrolment), jwk)

    def fails(_: object) -> None:
        raise RuntimeError("it cannot be recorded")

    with pytest.raises(RuntimeError):
        asyncio.run(enrolment.remove_key("demo", thumbprint_of(jwk), fails))
    assert len(enrolment.enrolled()) == 1


def refused_keys() -> list[dict[str, object]]:
    good = new_jwk()
    return [
        {},
        dict(ECKey.generate_key("P-256").as_dict(private=True)),
        dict(ECKey.generate_key("P-384").as_dict(private=False)),
        dict(OKPKey.generate_key("Ed25519").as_dict(private=False)),
        dict(RSAKey.generate_key(2048).as_dict(private=False)),
        {"kty": "oct", "k": "c2VjcmV0"},
        {**good, "k": "c2VjcmV0"},
        {**good, "x": 5},
        {**good, "x": good["y"]},
        {**good, "x": "AA"},
        {name: value for name, value in good.items() if name != "y"},
    ]


@pytest.mark.requirement("trap-enrolment-code")
@pytest.mark.parametrize("jwk", refused_keys())
def test_anything_but_a_public_es256_key_is_refused_and_the_code_stays_good(
    enrolment: EnrolmentStore, jwk: dict[str, object]
) -> None:
    code = code_for(enrolment)
    with pytest.raises(InvalidKeyError):
        consume(enrolment, code, jwk)
    assert consume(enrolment, code, new_jwk()) == "demo"


def test_public_jwk_names_the_key_by_its_thumbprint_whatever_it_was_called() -> None:
    jwk = new_jwk()
    published = public_jwk({**jwk, "kid": "../../etc/passwd", "use": "enc", "alg": "none"})
    assert published["kid"] == thumbprint_of(jwk)
    assert (published["use"], published["alg"]) == ("sig", "ES256")
