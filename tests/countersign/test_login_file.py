"""The operator's key and login on disk, and the proofs made with the key."""

from pathlib import Path

from countersign.login_file import LoginDirectory, SavedLogin, load_or_create_key
from token_exchange.claims import Refusal
from token_exchange.proof_of_possession import verify_dpop_proof

ISSUER = "https://as.example.com"
NOW = 1_700_000_000


def test_login_is_found_again_until_it_expires(tmp_path: Path) -> None:
    now = [float(NOW)]
    logins = LoginDirectory(tmp_path / "config", lambda: now[0])
    logins.save(SavedLogin(ISSUER, "token", NOW + 900))
    assert logins.load(ISSUER) == SavedLogin(ISSUER, "token", NOW + 900)
    assert logins.load("https://other.example.com") is None
    now[0] += 900
    assert logins.load(ISSUER) is None


def test_login_files_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    logins = LoginDirectory(tmp_path / "config", lambda: NOW)
    logins.key()
    logins.save(SavedLogin(ISSUER, "token", NOW + 900))
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "config").iterdir()}
    assert modes == {"key.json": 0o600, "login.json": 0o600}


def test_login_file_that_is_damaged_means_not_logged_in(tmp_path: Path) -> None:
    logins = LoginDirectory(tmp_path, lambda: NOW)
    for text in ("", "[]", '{"issuer": 1}', "{"):
        (tmp_path / "login.json").write_text(text)
        assert logins.load(ISSUER) is None


def test_proof_of_the_operators_key_is_what_the_admin_api_accepts(tmp_path: Path) -> None:
    key = load_or_create_key(tmp_path / "key.json", lambda: NOW)
    assert load_or_create_key(tmp_path / "key.json", lambda: NOW).thumbprint == key.thumbprint
    url = f"{ISSUER}/admin/v1/objects"
    for uri, accepted in ((url, True), (f"{url}/x", False)):
        proof = verify_dpop_proof(
            key.proof("GET", url + "?dry_run=true", "token"),
            method="GET",
            uri=uri,
            now=NOW,
            access_token="token",
            expected_thumbprint=key.thumbprint,
        )
        assert isinstance(proof, Refusal) is not accepted
