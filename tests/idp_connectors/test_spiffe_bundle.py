"""SPIFFE IDs and bundles: one spelling, keys by their use, whole or not at all."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from idp_connectors.workload.spiffe import SpiffeSettings
from idp_connectors.workload.spiffe_bundle import (
    MAXIMUM_BUNDLE_BYTES,
    BundleError,
    SpiffeBundle,
    parse_bundle,
)
from idp_connectors.workload.spiffe_bundle_sources import BundleEndpoint, BundleFile
from idp_connectors.workload.spiffe_id import parse_spiffe_id
from idp_connectors.workload.spiffe_workload_api import WorkloadApiBundle
from outbound.fetcher import FetchError
from tests.idp_connectors.trust_domains import TrustDomain
from tests.outbound.samples import POLICY, Clock, TableFetcher

PROD = TrustDomain("prod.example.com")
URL = "https://spire.example.com/bundle"


@pytest.mark.requirement("spiffe-id")
@pytest.mark.parametrize(
    "text",
    [
        "spiffe://prod.example.com/bot",
        "spiffe://a/b/c.d_e-F",
        "spiffe://1.2.3.4/...",
        "spiffe://a_b/x",
    ],
)
def test_spiffe_id_is_read_and_spelt_again(text: str) -> None:
    found = parse_spiffe_id(text)
    assert found is not None
    assert str(found) == text
    assert text == f"spiffe://{found.trust_domain}{found.path}"


@pytest.mark.requirement("spiffe-id")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "spiffe://",
        "spiffe://prod",
        "spiffe://prod/",
        "spiffe:///bot",
        "spiffe://prod//bot",
        "spiffe://prod/bot/",
        "spiffe://prod/./bot",
        "spiffe://prod/../bot",
        "spiffe://prod/b%6ft",
        "spiffe://prod/bot?x=1",
        "spiffe://prod/bot#x",
        "spiffe://prod:8080/bot",
        "spiffe://user@prod/bot",
        "spiffe://Prod/bot",
        "SPIFFE://prod/bot",
        "https://prod/bot",
        "spiffe://prod/bot\n",
        "spiffe://prod\n/bot",
        "spiffe://prod/b\u00f6t",
        "spiffe://prod/" + "b" * 2048,
        "spiffe://" + "p" * 256 + "/bot",
        None,
        7,
        ["spiffe://prod/bot"],
    ],
)
def test_every_other_text_is_no_spiffe_id(text: object) -> None:
    assert parse_spiffe_id(text) is None


@pytest.mark.requirement("spiffe-bundle")
def test_bundle_has_its_keys_by_use() -> None:
    bundle = parse_bundle(PROD.bundle(spiffe_refresh_hint=60))
    assert sorted(bundle.jwt_keys.by_key_id) == ["ec", "rsa"]
    assert [each.subject for each in bundle.x509_authorities] == [
        PROD.authority.certificate.subject
    ]
    assert bundle.refresh_hint_seconds == 60


@pytest.mark.requirement("spiffe-bundle")
def test_keys_of_unknown_use_or_kind_are_ignored() -> None:
    odd: list[dict[str, Any]] = [
        {"kty": "OKP", "crv": "Ed25519", "x": "AA", "use": "jwt-svid", "kid": "o"},
        {"kty": "oct", "k": "c2VjcmV0", "use": "jwt-svid", "kid": "k"},
        PROD.jwk(use="wit-svid", kid="w"),
        PROD.jwk(use=None, kid="n"),
        PROD.jwk(use=["jwt-svid"], kid="l"),
        PROD.jwk(kid=None),
    ]
    bundle = parse_bundle(PROD.bundle(PROD.jwk(), *odd))
    assert list(bundle.jwt_keys.by_key_id) == ["ec"]
    assert bundle.x509_authorities == ()


@pytest.mark.requirement("spiffe-bundle")
@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"keys": {}}',
        b'{"keys": [], "keys": []}',
        b'{"keys": [], "x": NaN}',
        PROD.bundle()[:-1],
        PROD.bundle(*[PROD.jwk(kid=str(number)) for number in range(65)]),
        PROD.bundle(PROD.x509_jwk(x5c=[])),
        PROD.bundle(PROD.x509_jwk(x5c=None)),
        PROD.bundle(PROD.x509_jwk(x5c=["AAAA"])),
        PROD.bundle(PROD.x509_jwk(x5c=["!"])),
        PROD.bundle(PROD.x509_jwk(x5c=[7])),
        PROD.bundle(PROD.x509_jwk(x5c=json.loads(PROD.bundle())["keys"][2]["x5c"] * 2)),
        b" " * (MAXIMUM_BUNDLE_BYTES + 1),
    ],
)
def test_document_that_is_no_bundle_is_none_at_all(document: bytes) -> None:
    with pytest.raises(BundleError):
        parse_bundle(document)


@pytest.mark.requirement("spiffe-bundle-file")
def test_large_or_missing_bundle_file_is_no_bundle(tmp_path: Path) -> None:
    path = tmp_path / "bundle.json"
    source = BundleFile(path)
    with pytest.raises(BundleError):
        asyncio.run(source.bundle())
    path.write_bytes(PROD.bundle())
    assert isinstance(asyncio.run(source.bundle()), SpiffeBundle)
    path.write_bytes(b" " * (MAXIMUM_BUNDLE_BYTES + 1))
    with pytest.raises(BundleError):
        asyncio.run(source.bundle())
    path.unlink()
    path.mkdir()
    with pytest.raises(BundleError):
        asyncio.run(source.bundle())


@pytest.mark.requirement("spiffe-bundle")
def test_bundle_endpoint_is_asked_as_often_as_its_bundle_says() -> None:
    clock = Clock()
    fetcher = TableFetcher({URL: json.loads(PROD.bundle(spiffe_refresh_hint=60))})
    source = BundleEndpoint(URL, POLICY, fetcher, clock)

    async def ask(seconds: float, key_id: object = "ec") -> int:
        clock.now += seconds
        await source.bundle(key_id=key_id)
        return len(fetcher.asked)

    async def story() -> None:
        assert [await ask(0), await ask(59), await ask(2)] == [1, 1, 2]
        # A key nobody knows is asked for once per cool-down, whoever invents how many.
        assert [await ask(11, "new"), await ask(1, "newer"), await ask(1, "newest")] == [3, 3, 3]
        fetcher.failure = FetchError("unreachable")
        assert await ask(100) == 4  # an endpoint that is down for a moment stops nobody
        clock.now += 4000
        with pytest.raises(BundleError, match="unreachable"):
            await source.bundle()

    asyncio.run(story())


@pytest.mark.requirement("spiffe-bundle")
def test_bundle_endpoint_that_answers_something_else_gives_no_bundle() -> None:
    tables: list[dict[str, Any]] = [{}, {URL: []}, {URL: {"keys": 7}}]
    for table in tables:
        source = BundleEndpoint(URL, POLICY, TableFetcher(table), Clock())
        with pytest.raises(BundleError):
            asyncio.run(source.bundle())


@pytest.mark.requirement("spiffe-bundle")
def test_workload_api_that_is_not_there_gives_no_bundle(tmp_path: Path) -> None:
    source = WorkloadApiBundle(f"unix://{tmp_path / 'no.sock'}", PROD.name, Clock())
    with pytest.raises(BundleError, match="Workload API"):
        asyncio.run(source.bundle())


@pytest.mark.requirement("spiffe-bundle")
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"bundle_file": "/a", "workload_api": "unix:///a"},
        {"bundle_file": "relative.json"},
        {"bundle_endpoint": "http://spire.example.com/"},
        {"workload_api": "tcp://127.0.0.1:8081"},
        {"bundle_file": "/a", "trust_domain": "Prod"},
        {"bundle_file": "/a", "trust_domain": ""},
        {"bundle_file": "/a", "trust_domain": "spiffe://prod"},
        {"bundle_file": "/a", "unknown": 1},
        {"bundle_file": "/a", "maximum_svid_seconds": 0},
    ],
)
def test_settings_name_one_domain_and_one_source(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SpiffeSettings.model_validate({"trust_domain": "prod.example.com", **settings})
    SpiffeSettings(trust_domain="prod.example.com", bundle_file="/a")
