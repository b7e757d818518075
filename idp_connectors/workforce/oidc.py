"""`oidc`: people log in at an OpenID provider (OpenID Connect Core, code flow).

There: `openid_login_request`. Back, in this order:

1. `iss` of the response is this provider's, and there at all if it promised so (RFC 9207 §2.4):
   an answer of one provider never reaches another's token endpoint (mix-up).
2. An error is an error; else there is a code.
3. The code is redeemed, with the verifier, as our registration.
4. The ID token: algorithm, key, `typ`, issuer, times (`openid_tokens`), audience and authorized
   party, our nonce, `auth_time` and `acr` as asked.
5. Name and groups, from the ID token and, if set so, userinfo of the same subject.

Asked again (`revalidate`): the refresh token is redeemed, and what comes back is judged likewise.
Somebody else's token of this provider (`verify_person_token`): its kind is told by its own `typ`,
never by what it is presented as. Left out: logout, encrypted ID tokens, and who may log in.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from idp_connectors.evidence import Person
from idp_connectors.workforce.claim_tables import ID_TOKEN, is_session
from idp_connectors.workforce.login import (
    AuthorizationRequest,
    LoginAttempt,
    LoginFailure,
    PersonToken,
    UpstreamLogin,
)
from idp_connectors.workforce.logout_token import (
    LogoutClaims,
    LogoutUnavailableError,
    judge_logout_token,
)
from idp_connectors.workforce.oidc_settings import OidcSettings
from idp_connectors.workforce.openid_client import (
    OpenIdClient,
    TokenAnswer,
    ended,
    not_acceptable,
    unavailable,
)
from idp_connectors.workforce.openid_login_checks import login_problem, response_failure
from idp_connectors.workforce.openid_login_request import authorization_request
from idp_connectors.workforce.openid_metadata import OpenIdMetadata
from idp_connectors.workforce.openid_person import UnusableGroupsError, groups_of, person_of
from idp_connectors.workforce.openid_person_tokens import (
    ID_TOKEN_TYPES,
    KINDS,
    AcceptedTokens,
    PersonTokenKind,
    person_claims,
    person_token,
)
from idp_connectors.workforce.openid_tokens import OpenIdTokens, party_problem, refused
from idp_connectors.workforce.parts import WorkforceParts
from outbound.fetcher import FetchError
from token_exchange.claims import Refusal


class OidcProvider:
    """One declared IdentityProvider of type `oidc`.

    `name` is the object's name and the prefix of every group; `permitted_groups` are those it may
    assert.
    """

    def __init__(
        self,
        name: str,
        settings: OidcSettings,
        permitted_groups: Collection[str],
        parts: WorkforceParts,
    ) -> None:
        self._name = name
        self._settings = settings
        self._permitted_groups = tuple(permitted_groups)
        self._own_issuer = parts.issuer
        self._tokens = OpenIdTokens(settings, parts)
        self._client = OpenIdClient(settings, parts)

    @property
    def label(self) -> str:
        """What the button on the login page says."""
        return self._settings.label or self._name

    @property
    def registration(self) -> tuple[str, str]:
        """The issuer, and the client we are there."""
        return self._settings.issuer, self._settings.client_id

    async def begin(self, attempt: LoginAttempt, now: int) -> AuthorizationRequest | LoginFailure:
        """Where to send the browser."""
        try:
            metadata = await self._tokens.metadata()
        except FetchError as error:
            return unavailable(f"metadata: {error}")
        return authorization_request(self._settings, metadata, attempt, now)

    async def finish(
        self, attempt: LoginAttempt, response: Mapping[str, str], now: int
    ) -> UpstreamLogin | LoginFailure:
        """Judge what the browser came back with, then redeem the code and judge that."""
        try:
            metadata = await self._tokens.metadata()
            problem = response_failure(self._settings, metadata, response)
            if problem is not None:
                return problem
            grant = {
                "grant_type": "authorization_code",
                "code": response["code"],
                "redirect_uri": attempt.redirect_uri,
                "code_verifier": attempt.code_verifier,
            }
            answer = await self._client.redeem(metadata.token_endpoint, grant)
            if isinstance(answer, LoginFailure):
                return replace(answer, detail=f"code: {answer.detail}")
            claims = await self._login_claims(answer, attempt, now)
            if isinstance(claims, LoginFailure):
                return claims
            return await self._login(metadata, answer, claims, now)
        except FetchError as error:
            return unavailable(f"metadata or keys: {error}")

    async def revalidate(
        self, person: Person, upstream: bytes | None, now: int
    ) -> Person | UpstreamLogin | LoginFailure:
        """Redeem the refresh token for what the provider says of the person today.

        Without one there is nobody to ask: the session then ends with the age of its claims.
        """
        # What another issuer gave is not shown to this one, whatever name both had here.
        is_ours = person.issuer == self._settings.issuer
        if upstream is None or not is_ours:
            return person if is_ours else ended("declared anew, with another issuer")
        grant = {"grant_type": "refresh_token", "refresh_token": upstream.decode("ascii")}
        try:
            metadata = await self._tokens.metadata()
            answer = await self._client.redeem(metadata.token_endpoint, grant)
            if isinstance(answer, LoginFailure):
                return replace(answer, detail=f"refresh: {answer.detail}")
            claims = await self._refreshed_claims(answer, person, now)
            if isinstance(claims, LoginFailure):
                return claims
            if answer.refresh_token is None:  # RFC 6749 §6: the old one stays good
                answer = replace(answer, refresh_token=upstream.decode("ascii"))
            login = await self._login(
                metadata, answer, claims, now, ask_userinfo=answer.unverified_id_token is None
            )
        except FetchError as error:
            return unavailable(f"metadata or keys: {error}")
        if isinstance(login, LoginFailure):
            return login
        # When and how the person logged in does not change by asking again.
        same = replace(login.person, auth_time=person.auth_time, acr=person.acr)
        return replace(login, person=same)

    async def verify_person_token(
        self,
        unverified_token: str,
        token_type: str,
        client_ids: Collection[str],
        maximum_age_seconds: int,
        now: int,
    ) -> PersonToken | Refusal:
        """Check an ID token or access token this provider issued to a listed client."""
        claims = await person_claims(
            unverified_token,
            self._person_token_kind(token_type),
            tokens=self._tokens,
            settings=self._settings,
            accepted=AcceptedTokens(
                client_ids=client_ids,
                maximum_age_seconds=maximum_age_seconds,
                own_issuer=self._own_issuer,
            ),
            now=now,
        )
        if isinstance(claims, Refusal):
            return claims
        try:
            person = self._person(claims, now)
        except UnusableGroupsError as error:
            return refused("person_token.claim", "invalid_request", f"groups: {error}")
        return person_token(person, claims, self._settings.claims_seconds)

    async def verify_logout_token(self, unverified_token: str, now: int) -> LogoutClaims | Refusal:
        """Check a logout token of this provider for us (Back-Channel Logout 1.0 §2.6)."""
        try:
            keys = await self._tokens.keys(unverified_token, refuse_as="invalid_request")
        except FetchError as error:
            raise LogoutUnavailableError(error.code) from None
        if isinstance(keys, Refusal):
            return keys
        return judge_logout_token(
            unverified_token,
            keys=keys,
            algorithms=frozenset(self._settings.algorithms),
            issuer=self._settings.issuer,
            client_id=self._settings.client_id,
            now=now,
        )

    def _person_token_kind(self, token_type: str) -> PersonTokenKind | None:
        return KINDS.get(token_type)

    async def _login_claims(
        self, answer: TokenAnswer, attempt: LoginAttempt, now: int
    ) -> Mapping[str, Any] | LoginFailure:
        if answer.unverified_id_token is None:
            return not_acceptable("no ID token")
        claims = await self._id_token(answer.unverified_id_token, now)
        if isinstance(claims, LoginFailure):
            return claims
        problem = login_problem(self._settings, claims, attempt, now)
        return claims if problem is None else not_acceptable(f"ID token: {problem}")

    async def _refreshed_claims(
        self, answer: TokenAnswer, person: Person, now: int
    ) -> Mapping[str, Any] | LoginFailure:
        if answer.unverified_id_token is None:
            return {"sub": person.subject}  # userinfo of this subject must then say the rest
        claims = await self._id_token(answer.unverified_id_token, now)
        if isinstance(claims, LoginFailure):
            return claims
        # §12.2: the refreshed ID token is of the same person.
        return claims if claims["sub"] == person.subject else ended("another subject")

    async def _id_token(self, unverified: str, now: int) -> Mapping[str, Any] | LoginFailure:
        claims = await self._tokens.verify(
            unverified,
            typ=ID_TOKEN_TYPES,
            table=ID_TOKEN,
            now=now,
            refuse_as="invalid_grant",
        )
        if isinstance(claims, Refusal):
            return not_acceptable(f"ID token: {claims.rule} {claims.detail}")
        problem = party_problem(claims, (self._settings.client_id,))
        return claims if problem is None else not_acceptable(f"ID token: {problem}")

    async def _login(
        self,
        metadata: OpenIdMetadata,
        answer: TokenAnswer,
        claims: Mapping[str, Any],
        now: int,
        *,
        ask_userinfo: bool = False,
    ) -> UpstreamLogin | LoginFailure:
        if self._settings.userinfo or ask_userinfo:
            said = await self._client.userinfo(
                metadata.userinfo_endpoint, answer.access_token, claims["sub"]
            )
            if isinstance(said, LoginFailure):
                return said
            # What was signed wins; nothing about the login itself is taken from here.
            shown = {"name", "preferred_username", self._settings.groups_claim}
            claims = {**{name: value for name, value in said.items() if name in shown}, **claims}
        try:
            person = self._person(claims, now)
        except UnusableGroupsError as error:
            return not_acceptable(f"groups: {error}")
        kept = answer.refresh_token
        upstream = None if kept is None else kept.encode("ascii")
        session = claims.get("sid")
        named = session if is_session(session) else None
        return UpstreamLogin(person, upstream, self._settings.claims_seconds, named)

    def _person(self, claims: Mapping[str, Any], now: int) -> Person:
        groups = groups_of(claims, self._settings.groups_claim, self._name, self._permitted_groups)
        return person_of(
            claims, provider=self._name, issuer=self._settings.issuer, groups=groups, now=now
        )
