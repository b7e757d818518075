"""What a refused caller must be told (RFC 6750 §3, RFC 9449 §7.1, RFC 9728 §5.1)."""

import httpx2

from compose.demo.stack import Stack


def assert_challenged(answer: httpx2.Response, stack: Stack, error: str | None) -> None:
    """401 with both challenges, the resource metadata, and the right error or none."""
    assert answer.status_code == 401, answer.text
    challenges = answer.headers.get_list("www-authenticate")
    assert {challenge.split()[0] for challenge in challenges} == {"Bearer", "DPoP"}
    metadata = f"{stack.base_url}/.well-known/oauth-protected-resource/crm/mcp"
    assert all(f'resource_metadata="{metadata}"' in challenge for challenge in challenges)
    dpop = next(challenge for challenge in challenges if challenge.startswith("DPoP"))
    assert 'algs="ES256"' in dpop
    if error is None:
        assert not any("error=" in challenge for challenge in challenges)
    else:
        assert f'error="{error}"' in dpop
    assert "result" not in answer.json()
