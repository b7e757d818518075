"""Others' keys: which are usable, and how often their sets are fetched."""

import asyncio
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from joserfc.jwk import ECKey, RSAKey
from joserfc.jws import JWSRegistry

from outbound.fetch_cache import COOL_DOWN_SECONDS, FRESH_SECONDS, MAXIMUM_SOURCES, USABLE_SECONDS
from outbound.fetcher import FetchError, FetchPolicy
from outbound.jwks import JwksCache
from outbound.public_keys import MAXIMUM_KEYS, ForeignKeys
from tests.outbound.samples import POLICY, Clock, TableFetcher, base64url_number

URL = "https://idp.example.com/keys"


def rsa_key(bits: int = 2048) -> RSAKey:
    return RSAKey.import_key(rsa.generate_private_key(public_exponent=65537, key_size=bits))


def rsa_jwk(**changed: Any) -> dict[str, Any]:
    return {**RSA.as_dict(private=False), "kid": "r", **changed}


def ec_jwk(**changed: Any) -> dict[str, Any]:
    return {**EC.as_dict(private=False), "kid": "e", **changed}


RSA = rsa_key()
EC = ECKey.import_key(ec.generate_private_key(ec.SECP256R1()))


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "RS512"])
def test_rsa_key_verifies_with_its_own_algorithm_alone(algorithm: str) -> None:
    key = ForeignKeys.of([rsa_jwk(alg=algorithm)]).find("r")
    assert key is not None
    assert key.algorithm == algorithm
    registry = JWSRegistry(algorithms=[algorithm, "RS384"])
    signature = registry.get_alg(algorithm).sign(b"text", RSA)
    assert key.verifies(b"text", signature)
    assert not key.verifies(b"other", signature)
    assert not key.verifies(b"text", registry.get_alg("RS384").sign(b"text", RSA))


@pytest.mark.parametrize(
    ("curve", "algorithm"), [("P-256", "ES256"), ("P-384", "ES384"), ("P-521", "ES512")]
)
def test_ec_key_has_the_algorithm_of_its_curve(curve: str, algorithm: str) -> None:
    jwk = {**ECKey.generate_key(curve).as_dict(private=False), "kid": "e"}
    key = ForeignKeys.of([jwk]).find("e")
    assert key is not None
    assert key.algorithm == algorithm


def test_rsa_key_that_names_no_algorithm_is_rs256() -> None:
    key = ForeignKeys.of([rsa_jwk()]).find("r")
    assert key is not None
    assert key.algorithm == "RS256"


@pytest.mark.requirement("attack-1")
@pytest.mark.parametrize(
    "jwk",
    [
        rsa_jwk(alg="HS256"),
        rsa_jwk(alg="none"),
        rsa_jwk(alg="ES256"),
        rsa_jwk(alg=["RS256"]),
        rsa_jwk(use="enc"),
        rsa_jwk(use=["sig"]),
        rsa_jwk(key_ops=["encrypt"]),
        rsa_jwk(key_ops="verify"),
        rsa_jwk(kid=""),
        rsa_jwk(kid=7),
        rsa_jwk(kid="k" * 257),
        rsa_jwk(n=""),
        rsa_jwk(n=7),
        rsa_jwk(n="!!!"),
        {**RSA.as_dict(private=True), "kid": "r"},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "r"},
        {"kty": "OKP", "crv": "Ed25519", "x": "AA", "kid": "r"},
        {"kty": "RSA", "kid": "r"},
        ec_jwk(crv="secp256k1"),
        ec_jwk(crv=["P-256"]),
        ec_jwk(alg="ES384"),
        ec_jwk(x=""),
        ec_jwk(y="AAAA"),
        "text",
        None,
    ],
)
def test_unusable_key_is_left_out_and_the_others_stay(jwk: object) -> None:
    other = {**ECKey.generate_key("P-256").as_dict(private=False), "kid": "other"}
    assert list(ForeignKeys.of([jwk, other]).by_key_id) == ["other"]


@pytest.mark.requirement("attack-30")
@pytest.mark.parametrize(
    "changed",
    [
        {"n": base64url_number((1 << 1023) | 1)},
        {"n": base64url_number((1 << 4096) | 1)},
        {"n": base64url_number((1 << 16383) | 1)},
        {"n": "A" * 500_000},
        {"e": base64url_number((1 << 2047) | 1)},
        {"e": base64url_number(2)},
        {"e": base64url_number(1)},
    ],
)
def test_key_of_another_size_than_2048_to_4096_is_left_out(changed: dict[str, str]) -> None:
    assert ForeignKeys.of([rsa_jwk(**changed)]).find("r") is None
    assert ForeignKeys.of([rsa_jwk()]).find("r") is not None


def test_kid_of_two_different_keys_is_neithers() -> None:
    twice = [ec_jwk(kid="same"), rsa_jwk(kid="same"), ec_jwk(kid="own")]
    assert list(ForeignKeys.of(twice).by_key_id) == ["own"]


def test_set_with_very_many_keys_is_read_to_its_bound() -> None:
    many = [ec_jwk(kid=f"k{number}") for number in range(MAXIMUM_KEYS + 1)]
    assert len(ForeignKeys.of(many).by_key_id) == MAXIMUM_KEYS


def test_other_uses_are_accepted_only_when_named() -> None:
    jwk = ec_jwk(use="jwt-svid")
    assert ForeignKeys.of([jwk]).find("e") is None
    assert ForeignKeys.of([jwk], uses=frozenset(("jwt-svid",))).find("e") is not None
    assert ForeignKeys.of([ec_jwk()], uses=frozenset(("jwt-svid",))).find("e") is None


@pytest.mark.anyio
@pytest.mark.requirement("attack-4")
async def test_flood_of_unknown_kids_is_one_fetch_per_cool_down() -> None:
    clock, fetcher = Clock(), TableFetcher({URL: {"keys": [ec_jwk()]}})
    cache = JwksCache(fetcher, clock)
    flood = [cache.keys(URL, POLICY, kid=f"invented-{number}") for number in range(100)]
    found = await asyncio.gather(*flood)
    assert len(fetcher.asked) == 1
    assert all(keys.find("e") is not None for keys in found)
    clock.now += COOL_DOWN_SECONDS
    await cache.keys(URL, POLICY, kid="invented")
    await cache.keys(URL, POLICY, kid="invented")
    assert len(fetcher.asked) == 2


@pytest.mark.anyio
@pytest.mark.requirement("attack-4")
async def test_new_key_is_found_after_the_cool_down() -> None:
    clock, fetcher = Clock(), TableFetcher({URL: {"keys": [ec_jwk()]}})
    cache = JwksCache(fetcher, clock)
    await cache.keys(URL, POLICY, kid="e")
    fetcher.table[URL] = {"keys": [ec_jwk(), rsa_jwk()]}
    assert (await cache.keys(URL, POLICY, kid="r")).find("r") is None
    clock.now += COOL_DOWN_SECONDS
    assert (await cache.keys(URL, POLICY, kid="r")).find("r") is not None


@pytest.mark.anyio
async def test_known_kid_is_not_fetched_again_while_fresh() -> None:
    clock, fetcher = Clock(), TableFetcher({URL: {"keys": [ec_jwk()]}})
    cache = JwksCache(fetcher, clock)
    for _ in range(5):
        await cache.keys(URL, POLICY, kid="e")
        clock.now += COOL_DOWN_SECONDS
    assert len(fetcher.asked) == 1
    clock.now += FRESH_SECONDS
    await cache.keys(URL, POLICY, kid="e")
    assert len(fetcher.asked) == 2


@pytest.mark.anyio
@pytest.mark.requirement("attack-3")
async def test_failure_is_remembered_for_the_cool_down() -> None:
    clock, fetcher = Clock(), TableFetcher()
    cache = JwksCache(fetcher, clock)
    for _ in range(10):
        with pytest.raises(FetchError, match="status"):
            await cache.keys(URL, POLICY, kid="e")
    assert len(fetcher.asked) == 1
    fetcher.table[URL] = {"keys": [ec_jwk()]}
    clock.now += COOL_DOWN_SECONDS
    assert (await cache.keys(URL, POLICY, kid="e")).find("e") is not None


@pytest.mark.anyio
async def test_keys_outlive_an_outage_for_an_hour_and_no_longer() -> None:
    clock, fetcher = Clock(), TableFetcher({URL: {"keys": [ec_jwk()]}})
    cache = JwksCache(fetcher, clock)
    await cache.keys(URL, POLICY, kid="e")
    fetcher.failure = FetchError("unreachable")
    clock.now += USABLE_SECONDS - 1
    assert (await cache.keys(URL, POLICY, kid="e")).find("e") is not None
    clock.now += COOL_DOWN_SECONDS
    with pytest.raises(FetchError, match="unreachable"):
        await cache.keys(URL, POLICY, kid="e")


@pytest.mark.anyio
async def test_withdrawn_key_is_gone_after_the_next_fetch() -> None:
    clock, fetcher = Clock(), TableFetcher({URL: {"keys": [ec_jwk()]}})
    cache = JwksCache(fetcher, clock)
    await cache.keys(URL, POLICY, kid="e")
    fetcher.table[URL] = {"keys": [rsa_jwk()]}
    clock.now += FRESH_SECONDS
    assert (await cache.keys(URL, POLICY, kid="e")).find("e") is None


@pytest.mark.anyio
async def test_other_policy_is_another_source() -> None:
    clock, fetcher = Clock(), TableFetcher({URL: {"keys": [ec_jwk()]}})
    cache = JwksCache(fetcher, clock)
    await cache.keys(URL, POLICY, kid="e")
    await cache.keys(URL, FetchPolicy(ca_bundle="/other.pem"), kid="e")
    assert len(fetcher.asked) == 2


@pytest.mark.anyio
async def test_cache_is_bounded() -> None:
    fetcher = TableFetcher()
    cache = JwksCache(fetcher, Clock())
    for number in range(MAXIMUM_SOURCES + 10):
        with pytest.raises(FetchError):
            await cache.keys(f"https://idp.example.com/{number}", POLICY, kid="e")
    assert len(cache._cache._entries) == MAXIMUM_SOURCES


@pytest.mark.anyio
@pytest.mark.parametrize("document", [{}, {"keys": {}}, {"keys": "e"}])
async def test_document_that_is_no_key_set_is_refused(document: dict[str, Any]) -> None:
    cache = JwksCache(TableFetcher({URL: document}), Clock())
    with pytest.raises(FetchError, match="not_json"):
        await cache.keys(URL, POLICY, kid="e")


@pytest.mark.anyio
async def test_cancelled_fetch_counts_for_nothing() -> None:
    clock, fetcher = Clock(), TableFetcher({URL: {"keys": [ec_jwk()]}})
    cache, started = JwksCache(fetcher, clock), asyncio.Event()

    class Hanging(TableFetcher):
        async def get(self, *_: object, **__: object) -> Any:
            started.set()
            await asyncio.Event().wait()

    cache._fetcher = Hanging()
    asking = asyncio.create_task(cache.keys(URL, POLICY, kid="e"))
    await started.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    cache._fetcher = fetcher
    assert (await cache.keys(URL, POLICY, kid="e")).find("e") is not None
