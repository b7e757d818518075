"""The secrets of one login at another site, all bound to the browser that started it.

`state` is random and stored as its digest. Nonce and PKCE verifier are HMACs of it and the browser
cookie by a key of the server: they exist only while that browser is here, the database holds
nothing of them, whoever sees state and cookie cannot make them, and a callback brought to another
browser yields another nonce and another verifier even if every other check were missing (login
CSRF, session fixation; RFC 9700 §4.7). The redirect URI has the
provider's name in its path: a response of one provider cannot be taken for another's (§4.4).
"""

import hashlib
import hmac
from base64 import urlsafe_b64encode

from authz_server.store.interactions import Interaction
from idp_connectors.workforce.login import LoginAttempt


def login_attempt(
    interaction: Interaction,
    *,
    key: bytes,
    issuer: str,
    provider: str,
    state: str,
    browser_secret: str,
) -> LoginAttempt:
    """The attempt of this state in this browser; the same when the browser comes back.

    `key` is the server's HMAC key of forms.
    """
    asked = interaction.request
    since = interaction.created_at if asked.fresh_login else 0

    def derived(purpose: str) -> str:
        message = f"upstream {purpose}:{provider}:{state}:{browser_secret}".encode()
        digest = hmac.new(key, message, hashlib.sha256).digest()
        return urlsafe_b64encode(digest).rstrip(b"=").decode()  # 43 characters, RFC 7636 §4.1

    return LoginAttempt(
        redirect_uri=callback_uri(issuer, provider),
        state=state,
        nonce=derived("nonce"),
        code_verifier=derived("code_verifier"),
        login_not_before=max(asked.login_not_before, since),
        must_log_in=asked.fresh_login,
    )


def callback_uri(issuer: str, provider: str) -> str:
    """Where a provider sends the browser back to: one path for each."""
    return f"{issuer}/oauth/callback/{provider}"
