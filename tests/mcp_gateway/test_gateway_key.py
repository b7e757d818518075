import json
import secrets
import stat
from pathlib import Path

import pytest
from joserfc import jwe
from joserfc.jwk import ECKey

from mcp_gateway import gateway_key
from mcp_gateway.enrolment import load_identity
from mcp_gateway.gateway_key import GatewayKey, UnsealError
from tests.mcp_gateway.rig import ISSUER, NOW
from token_exchange.claims import Refusal
from token_exchange.proof_of_possession import DpopProof, verify_dpop_proof


def test_key_is_made_once_for_its_owner_only_and_reused(tmp_path: Path) -> None:
    path = tmp_path / "gateway.key"
    made = GatewayKey.load_or_create(path, secrets.token_bytes)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = GatewayKey.load_or_create(path, secrets.token_bytes)
    assert again.thumbprint == made.thumbprint
    assert "d" not in made.public_jwk


def test_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gateway.key"
    GatewayKey.load_or_create(path, secrets.token_bytes)
    path.chmod(0o640)
    with pytest.raises(PermissionError):
        GatewayKey.load_or_create(path, secrets.token_bytes)


@pytest.mark.parametrize("curve", ["P-384", None])
def test_file_that_holds_another_key_is_refused(tmp_path: Path, curve: str | None) -> None:
    path = tmp_path / "gateway.key"
    key = ECKey.generate_key("P-384" if curve else "P-256")
    path.write_bytes(key.as_pem(private=curve is not None))
    path.chmod(0o600)
    with pytest.raises(ValueError, match="private key"):
        GatewayKey.load_or_create(path, secrets.token_bytes)


def test_proof_is_for_one_request_and_never_the_same(tmp_path: Path) -> None:
    key = GatewayKey.load_or_create(tmp_path / "k", secrets.token_bytes)
    url = f"{ISSUER}/control/v1/acks"
    proofs = [key.dpop_proof(method="POST", uri=url, now=NOW, access_token="t") for _ in range(2)]
    verified = [
        verify_dpop_proof(
            proof,
            method="POST",
            uri=url,
            now=NOW,
            access_token="t",
            expected_thumbprint=key.thumbprint,
        )
        for proof in proofs
    ]
    assert all(isinstance(each, DpopProof) for each in verified)
    assert len({each.jti for each in verified if not isinstance(each, Refusal)}) == 2


def test_secret_sealed_to_the_key_is_unsealed_and_another_is_not(tmp_path: Path) -> None:
    key = GatewayKey.load_or_create(tmp_path / "k", secrets.token_bytes)

    def seal(public: ECKey, algorithm: str = "ECDH-ES") -> str:
        header = {"alg": algorithm, "enc": "A256GCM"}
        return jwe.encrypt_compact(header, b"secret", public, [algorithm, "A256GCM"])

    own = ECKey.import_key(key.public_jwk)
    assert key.unseal(seal(own)) == b"secret"
    for sealed in (
        seal(ECKey.generate_key("P-256")),
        seal(own, "ECDH-ES+A128KW"),
        "",
        "a.b.c.d.e",
        seal(own)[:-6] + "AAAAAA",
    ):
        with pytest.raises(UnsealError):
            key.unseal(sealed)


def test_damaged_enrolment_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gateway.json"
    path.write_text(json.dumps({"client_id": 7}))
    with pytest.raises(ValueError, match="enrolment"):
        load_identity(path)


def test_key_of_a_worker_that_was_first_is_used_by_the_others(tmp_path: Path) -> None:
    path = tmp_path / "gateway.key"
    first = GatewayKey.load_or_create(path, secrets.token_bytes)
    gateway_key._create(path)
    assert GatewayKey.load_or_create(path, secrets.token_bytes).thumbprint == first.thumbprint
    assert [each.name for each in tmp_path.iterdir()] == ["gateway.key"]
