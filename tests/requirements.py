"""Every requirement a test proves, by id. Checked both ways by tests/test_requirements.py.

`C` and `B` ids are the product's capabilities, `attack-N` the table of attacks, the rest sections
of specifications and traps seen in other products.
"""

from typing import Final

REQUIREMENTS: Final[dict[str, str]] = {
    "B4": "Denials that help and never leak.",
    "C1": (
        "A unique, time-bounded identity per agent *invocation*; parallel instances never "
        "share one."
    ),
    "C7": (
        "AI-agent runtime (LangChain, AutoGen) has no native identity: inject a sidecar, derive "
        "identity from pod SVID, per-session call log."
    ),
    "C24": "Logs/policy distinguish agent alone / agent for Alice / Alice directly.",
    "C27": (
        "Credential-level separation between users of a shared agent (cross-user contamination)."
    ),
    "C30": (
        "Token issuer: OIDC tokens, 15 min, scoped to the target API; token dies when the "
        "invocation exits."
    ),
    "C34": (
        "Connect workforce IdPs; pull humans, groups, roles; consume, do not replace them. "
        "OIDC user tokens forwarded and verified."
    ),
    "C35": (
        "Two phases: authenticate agent + user -> blended credential -> gateway; then "
        "token exchange -> target credential."
    ),
    "C36": (
        "Agent never receives the target credential; custom enterprise MCP servers and "
        "third-party SaaS MCP servers both supported."
    ),
    "C37": (
        "Policy per tool call *before* it runs on blended identity + resource, "
        "parameters, time, geo, risk; else block + structured denial with reasons."
    ),
    "C40": "Every call bound to who / what / why at the moment of use.",
    "C57": (
        "Block one agent by a policy change, near-immediate because credentials are "
        "short; allow / constrain / kill from one place."
    ),
    "C58": (
        "Anomaly halts issuance for an agent or an agent *class*; runtime change revokes at once."
    ),
    "C59": (
        "Exact event fields: event_id, timestamp, workload_svid, workload_type, "
        "target_service, policy_matched, token_issued, token_id, ttl_seconds, "
        "request_method, request_path, outcome, latency_ms. IDs look like `evt_...` and "
        "`tok_prod_...`; timestamp ISO-8601 with ms."
    ),
    "C60": (
        "Log by agent session ID + target API; per-session call log; allow *and* deny, "
        "JIT issuance, and downstream call each an event."
    ),
    "C61": (
        "Attribution per agent, per user binding, per tool, with user_context when "
        "present; structured denial reasons."
    ),
    "CIMD-3": (
        "A client id that names a metadata document is an https URL with a path, in one spelling, "
        "without fragment, user information or dot segments."
    ),
    "CIMD-4": (
        "A client id metadata document names its own URL, holds no shared secret, and says how "
        "its client authenticates: not at all, or with a key of its own."
    ),
    "CIMD-5": (
        "A client id metadata document is a 200 of JSON without redirects; it is kept as its "
        "headers say, within bounds, and errors are not."
    ),
    "MCP-2025-11-25": (
        "Agents of the legacy era (2025-11-25, 2025-06-18) initialize, list, call, cancel and "
        "listen, each in a session of their own."
    ),
    "MCP-2026-07-28": ("The official SDK's client and server work through the gateway unchanged."),
    "OIDC-BCL-2.6": (
        "A logout token is of its type, from its issuer, for us, in time, about logout, without "
        "a nonce, names a person or a session, and is used once."
    ),
    "OIDC-CORE-3.1.3.7": (
        "An ID token is for clients that are trusted and no other audience, and where it names an "
        "authorized party, for that one of them."
    ),
    "RFC6749-3.3": (
        "A scope is scope tokens of visible ASCII separated by single spaces; anything "
        "else is invalid_scope."
    ),
    "RFC6749-6": (
        "A refresh token renews the access that was granted, never more, and is replaced by a "
        "new one at each use."
    ),
    "RFC7515-5.2": (
        "A compact JWS has one spelling: three canonical base64url parts, no white space, "
        "no padding, one JSON object as header."
    ),
    "RFC7519-4": (
        "Claims are one JSON object without duplicate members, NaN, infinities, unpaired "
        "surrogates or excessive depth."
    ),
    "RFC7519-4.1.3": (
        "A JWT is accepted only for exactly the audience its verifier identifies with, "
        "and with none only where none is expected."
    ),
    "RFC7638-3": "A key is known by the SHA-256 thumbprint of its canonical required members.",
    "RFC8414-3.3": "The issuer in metadata is the one that was asked, byte for byte.",
    "RFC8693-2.1": (
        "A token exchange names one target and gets the type of token its provider makes; "
        "asking for none is asking for an access token."
    ),
    "RFC8693-2.2.1": (
        "A token exchange answers access_token, issued_token_type, token_type and expires_in."
    ),
    "RFC8693-2.2.2": (
        "An unacceptable subject token is refused with invalid_request, an unacceptable "
        "resource with invalid_target."
    ),
    "RFC8693-4.1": (
        "The actor of a new token is wrapped around the received chain, which stays as it was."
    ),
    "RFC8707-2": (
        "Exactly one resource is named, byte for byte the url of the target that the "
        "subject token's audience stands for."
    ),
    "RFC9068-2.1": (
        "An access token has typ at+jwt and the claims iss, exp, aud, sub, client_id, iat and jti."
    ),
    "RFC9068-4": (
        "An access token is accepted only with typ at+jwt, an explicit algorithm, our "
        "issuer, this audience and current times."
    ),
    "RFC9396-2": (
        "authorization_details are a JSON array of objects of the types this product defines."
    ),
    "RFC9396-5": (
        "Unknown types, unknown members and values out of range are invalid_authorization_details."
    ),
    "RFC9449-9": (
        "A nonce that a resource server asks for goes into the next proof, and the newest is kept."
    ),
    "RFC9449-4.3": (
        "A DPoP proof is accepted only for this method, URI, token, key, time and, where "
        "demanded, nonce."
    ),
    "admin-account-changes": (
        "Whatever changes about a local account moves the person's claims epoch; another password "
        "and a disabled account end their logins, too; change, cut and audit event are one."
    ),
    "admin-accounts": (
        "Local accounts are added under the provider's rules; a password is stored and "
        "logged nowhere."
    ),
    "admin-agent": "A token of an agent, or through one, never administers.",
    "admin-catalogue": (
        "Tools are shown as observed and approved, and approved in the definition the "
        "server offers."
    ),
    "admin-errors": (
        "Every error has a code, a description and, for objects and fields, their paths; "
        "it never repeats the input."
    ),
    "admin-gateways": (
        "A join code is single use, carries the control key's thumbprint and is never "
        "recorded; live workers are listed; one enrolled key is taken back without the others."
    ),
    "admin-objects": (
        "Objects are read, compared, applied all or none, and deleted, each change with "
        "author, version and an audit event."
    ),
    "admin-openapi": (
        "The OpenAPI 3.1 document is made from the route table and the models and "
        "describes the answers given."
    ),
    "admin-policies": (
        "A policy set that waits for tools says so and becomes live when they are approved."
    ),
    "admin-roles": (
        "Each endpoint takes the role of one explicit table, looked up at each request; "
        "only an admin changes who vouches and who has a role."
    ),
    "admin-secrets": (
        "The admin API stores ciphertext sealed to the vault's key under the secret's own "
        "name, and never shows it."
    ),
    "admin-setup": (
        "The setup code has at least 128 bits, is stored as a hash, lives 15 minutes, "
        "works once, and only while nobody is admin."
    ),
    "RFC9207-2.4": (
        "The iss of an authorization response is the provider the login was begun at, and is "
        "there where the provider promised it."
    ),
    "admin-token": (
        "The admin API takes a DPoP-bound access token of a person for the admin "
        "audience, or a judged peer of the local socket, and nothing else."
    ),
    "agent-run-inspector": (
        "The MCP Inspector, run under `agent run`, lists and calls tools in both eras without a "
        "login or a token of its own."
    ),
    "agent-run-tree": (
        "The loopback address of a run is no secret: only connections of the run's own process "
        "tree are served, orphans included; elsewhere than on Linux nothing starts."
    ),
    "attack-1": (
        "alg none / HS256 with public key / alg not pinned to issuer: invalid_client, no key lookup"
    ),
    "attack-2": (
        "kid path/SQL/URL, `jku`, `x5u`, `jwk`, `crit`, `b64` header: ignored or rejected, no fetch"
    ),
    "attack-3": (
        "JWKS / CIMD / request_uri / discovery SSRF: private, link-local, loopback, IPv6-mapped, "
        "DNS rebinding, redirects, 10 MB, slowloris: connect to vetted IP only, no redirects, "
        "size/time caps, negative cache"
    ),
    "attack-4": "unknown kid flood -> JWKS refetch storm: one fetch per cool-down",
    "attack-5": (
        "assertion: wrong aud, array aud, other trust domain's issuer signing our sub, "
        "exp too far, nbf, missing exp, float/NaN/string exp, replayed jti across workers "
        "(single-use kinds: private_key_jwt, DPoP, ID-JAG): reject"
    ),
    "attack-6": (
        "ID token / access token / SVID of other purpose offered as assertion or "
        "subject_token (cross-JWT): typ + iss + aud gates"
    ),
    "attack-7": (
        "redirect_uri: prefix, userinfo, encoded, port, case, fragment, trailing dot, "
        '`"`/non-ASCII; loopback port rule only for native clients: no redirect, 400 page'
    ),
    "attack-8": (
        "open redirect through error response / post_logout / upstream callback: never to "
        "unregistered"
    ),
    "attack-9": (
        "code replay, parallel replay (20 at once), other client, other redirect_uri, "
        "after 60 s: exactly one success; replay revokes the family"
    ),
    "attack-10": (
        "PKCE downgrade: no challenge, plain, verifier without challenge, short verifier: reject"
    ),
    "attack-11": (
        "mix-up (client and our own upstream RP side): missing/wrong `iss`, state/nonce "
        "swap between IdPs: reject; per-IdP callback path"
    ),
    "attack-12": (
        "login CSRF / session fixation at the upstream callback; consent CSRF; "
        "prompt=none bypass of consent: bound state cookie, token, new session id"
    ),
    "attack-13": "clickjacking of login/consent: frame-ancestors 'none', XFO DENY",
    "attack-14": (
        "refresh replay, parallel rotation, other client's refresh token, scope widening: "
        "family revoked; one winner"
    ),
    "attack-15": (
        "DPoP: htm/htu/ath/jti replay/iat/nonce/jkt swap, Bearer downgrade of bound "
        "token, private key in jwk header: reject"
    ),
    "attack-16": (
        "audience confusion: resource not allowed, many resources, no resource -> "
        "default, exchange to wider aud/scope/longer life, `may_act` / delegation depth, "
        "actor != authenticated client: invalid_target / access denied"
    ),
    "attack-17": (
        "act chain forging: client-supplied act, extra claims overriding iss/sub/aud/exp: "
        "reserved claims never overridable"
    ),
    "attack-18": (
        "several client auths in one request; public client using confidential grant; "
        "auth method downgrade: invalid_request / invalid_client"
    ),
    "attack-19": (
        "duplicate / oversized / wrong content type / charset / NUL / 10k params / params "
        "in query of POST: 400, never 500"
    ),
    "attack-21": (
        "CIMD: client_id != document, shared secret in document, redirect_uri on other origin, "
        "changed document during flow, look-alike name in consent: reject; show host"
    ),
    "attack-24": (
        "timing on secrets and codes; user/client enumeration: compare hashes, same error"
    ),
    "attack-25": (
        "request smuggling, Host / X-Forwarded-* spoof changing issuer: issuer from "
        "config; h11/httptools strictness test"
    ),
    "attack-26": "secrets in logs, Referer, error pages, URLs: log scanner over the test run",
    "attack-27": (
        "key rotation: token by retired key, premature key, unpublished key; clock skew "
        "+-60 s: as designed"
    ),
    "attack-28": (
        "revoked agent/user keeps exchanging; epoch applied in all workers within 1 s: denied"
    ),
    "attack-29": (
        "upstream IdP: email-based linking, unverified email, sub reuse across IdPs: key "
        "on (iss, sub) only"
    ),
    "attack-30": (
        "DoS: RS4096/RSA-16384 keys, huge tokens, deep JSON (joserfc caps a token at 129 "
        "536 bytes; set ours lower): size gate before crypto"
    ),
    "audit-complete": (
        "Every search says whether its answer is complete: all of 1..high_water of every "
        "source, and no source silent."
    ),
    "audit-counted": (
        "A search counts a bounded number of events; an answer about more than it counted is not "
        "called complete, and says since when it did."
    ),
    "audit-durable": (
        "An event is in a file before the action it records, survives kill -9 of the "
        "process, and with durability `power` an fsync is awaited."
    ),
    "audit-fail-closed": (
        "What cannot be recorded is not done: a full, unwritable or failed spool refuses."
    ),
    "audit-gateway-kinds": ("A gateway can record only a gateway's kinds of events, about itself."),
    "audit-push": (
        "Events are pushed in order, again until acknowledged, and stored once; what "
        "contradicts a stored event is refused."
    ),
    "audit-search": "Events are found by exact filters, newest first, page by page.",
    "audit-sequence": (
        "Every event carries its source and a gapless sequence of that source; each "
        "process start is a source of its own."
    ),
    "audit-unknown-outcome": (
        "After a crash every allowed decision without an outcome gets one of `unknown`, "
        "in its source's own sequence, once."
    ),
    "audit-unwritable-refuses": "A call whose decision cannot be recorded is not made.",
    "blend-consent": (
        "A person's token becomes a blended one only with that person's stored consent for this "
        "agent, server and tools as they are, or by a mandate, whose every use is an event."
    ),
    "cancellation-travels-up": "An agent that goes away ends the request at the MCP server.",
    "client-table": (
        "The Python and TypeScript clients and the Inspector, of both eras: from the 401 to login, "
        "consent, list, call and the token after the expired one."
    ),
    "compose-guide": (
        "The compose guide leads from nothing to an audited call, by the commands, settings, users "
        "and secrets of the file."
    ),
    "compose-networks": (
        "In the compose file only the front is published, on loopback, and only gateways reach the "
        "MCP server."
    ),
    "compose-secrets": (
        "No secret of the compose file is in an environment, an argument or an image: each is a "
        "file of whoever reads it."
    ),
    "control-enrolment": (
        "An enrolment code works once, within ten minutes, and only with a proof by the "
        "key that is enrolled."
    ),
    "control-events": (
        "The event stream brings every revocation in order, and no heartbeat while the "
        "server's own picture is stale."
    ),
    "control-intent-first": (
        "Enrolment and publishing write their intent before anything changes."
    ),
    "control-own-only": (
        "A gateway reports audit events and tools of its own workers and servers only."
    ),
    "control-snapshot": (
        "A gateway's snapshot contains what its own servers need, no provider settings, "
        "and is signed by the control key."
    ),
    "credential-never-echoed": (
        "No reply, however split or encoded, carries the target's credential to the agent."
    ),
    "era-matrix": (
        "Agents of either era reach servers of either era: begin, list, call, progress, cancel."
    ),
    "era-probe": (
        "Whether a server is modern is asked with server/discover, once per server, and never "
        "with a person's call."
    ),
    "eras-judged-alike": (
        "The modern and the legacy form of one call become the same frozen value: they are judged "
        "identically, and what one era refuses the other refuses."
    ),
    "exchange-decision-once": (
        "Where a credential is bound to a call, its decision id works once, whoever "
        "presents it and in whichever process."
    ),
    "exchange-discovery": (
        "Discovery is a gateway's own token at a server of its own, without a person, at "
        "most 60 seconds."
    ),
    "exchange-ladder": "Of several things wrong with an exchange the first rung's is told.",
    "exchange-gateway-not-believed": (
        "At an exchange the authorization server checks the subject token's audience, the "
        "resource and its own policies, whatever the gateway says."
    ),
    "intent-before-anything-leaves": (
        "The decision is in the spool before the authority or the server is asked."
    ),
    "issue-database-cost": (
        "A token request reads nothing from the database and writes once, for its single- "
        "use proofs."
    ),
    "issue-holder": (
        "Whatever a grant planned, a token is issued only to a client that may hold its "
        "audience, bound to the proved key."
    ),
    "issue-recorded-first": "What the audit could not take is not issued.",
    "keys-at-rest": (
        "A key at rest is AES-256-GCM ciphertext that opens only under its own key- "
        "encryption key, id, algorithm, purpose and state."
    ),
    "keys-one-active": (
        "Each purpose has exactly one active key, whichever of several processes makes it."
    ),
    "legacy-server-requests": (
        "What a legacy server asks during a call is refused towards it and never reaches the agent."
    ),
    "legacy-session-ends": (
        "A session at a legacy server is ended when it is revoked, idle, one too many or we stop."
    ),
    "legacy-session-per-principal": (
        "No two principals share a session at a legacy server, also not with one credential."
    ),
    "legacy-session-renewed-once": (
        "Only a 404 renews a session and sends its call again, and only once."
    ),
    "legacy-session-owner": (
        "A legacy session is served at every worker of a machine, by the one that owns it; when "
        "that one is gone it is a 404, and another begins."
    ),
    "legacy-stream-resumed": (
        "A stream that a legacy server closed before its answer is taken up again, not the call."
    ),
    "legacy-upstream": (
        "An agent of 2026-07-28 uses a server of 2025-11-25 or 2025-06-18 as if it were modern."
    ),
    "one-worker-per-gateway": (
        "A Gateway is served by one process at a time, or by several with one memory of used "
        "proofs: any other gets neither snapshot nor events."
    ),
    "proof-memory-away": (
        "While it is not known whether a proof was used, because the shared memory is away, lost "
        "or not accepted, the call is refused."
    ),
    "proof-memory-shared": (
        "Of the uses of one proof at all workers one is the first, also when the shared memory was "
        "killed, restored, emptied or replaced in between."
    ),
    "blocks-by-people": (
        "What is cut off is listed without the runs and tokens that nobody but agents and servers "
        "ended, unless they are asked for."
    ),
    "exchange-bound": (
        "A subject token that is bound to no key is exchanged only for a server that takes bearers "
        "now, whatever it took when the token was issued and whatever the gateway says."
    ),
    "run-end-budget": (
        "Of one agent, and of one agent for one person, only so many runs an hour are ended, over "
        "all processes; of one too many the refresh tokens end alone, and it spends nothing of "
        "anybody else."
    ),
    "runs-forgotten": (
        "What was cut off of runs and tokens is forgotten a day later, in memory and database, "
        "when nothing of it can live; who was away meanwhile ends with the same state."
    ),
    "stale-issues-nothing": (
        "A process that has not read the registry for the lease issues no token."
    ),
    "stdio-host": (
        "A stdio server runs a command that only the host's settings name, with a cleared "
        "environment, limits and no way to gain privileges, and hears the gateway's user alone."
    ),
    "stdio-left-behind": "What a stdio server started ends with it, whatever group it went to.",
    "stdio-own-process": (
        "Where the credential is personal each principal has a process of its own, which ends "
        "with its session."
    ),
    "stdio-restarts": (
        "A stdio server that ends is started again, after a pause that grows; a personal one "
        "delays nobody else."
    ),
    "strangers-cannot-fill-the-spool": (
        "Refusals of requests without a valid token are written up to a rate and counted beyond it."
    ),
    "trailers-never-authenticate": "A field after the body is never taken for a header.",
    "write-wait-bounded": (
        "A write that does not begin in time is refused and dropped; one that has begun is waited "
        "for, so that nobody is refused whose work is committed."
    ),
    "workers-lose-nothing": (
        "A worker that dies under load takes nothing with it: the others serve, and each of its "
        "intents has an outcome or is unknown."
    ),
    "workers-share-proofs": "A proof used at one worker of a Gateway is refused by every other.",
    "platform-token": (
        "A platform's JWT is verified by the keys of the one issuer that was declared, by "
        "explicit rules, and gives the claims that were named."
    ),
    "spiffe-bundle": (
        "A bundle is its document's keys by use, whole or not at all, of the one source that "
        "was declared."
    ),
    "spiffe-bundle-file": (
        "A bundle file is read again when it changes; a missing or broken one is no bundle."
    ),
    "spiffe-id": "A SPIFFE ID has one spelling; every other text is none.",
    "spiffe-jwt-svid": (
        "A JWT-SVID is verified by the bundle of the one trust domain its subject names, for "
        "our issuer alone, and gives evidence of level 2."
    ),
    "spiffe-real": ("SVIDs of a real SPIRE are accepted, those of a foreign trust domain refused."),
    "spiffe-x509-svid": (
        "An X.509-SVID is verified by the bundle of its trust domain on every request, and "
        "only over the listener that takes client certificates."
    ),
    "trap-7": "A token without typ, or with another one, is no access token.",
    "trap-18": "White space and newlines inside a JWS, and b64, are refused.",
    "trap-accept-html": "Token errors are JSON whatever `Accept` says.",
    "trap-agent-as-admin": (
        "A process that is an agent, or descends from one, is never the local operator."
    ),
    "operator-doctor": (
        "The doctor finds what does not work from outside and inside, shows no secret, holds up "
        "on nothing that hangs, and says for each finding how to mend it."
    ),
    "operator-explain": (
        "Explain answers for a call that might be made what the live configuration would, names "
        "the policy and its line, and proposes only changes that were tried."
    ),
    "operator-files": (
        "What export writes, apply takes as no change, and it holds no secret; diff says by its "
        "exit code whether files differ from what is declared."
    ),
    "operator-names": (
        "Kill and restore take a person's name only where it is one person's; else they list who "
        "it may be and cut off nobody. A search of the audit for a name that is nobody's, no "
        "agent's or no server's is refused, not answered empty."
    ),
    "operator-warnings": ("Apply warns of an argument no tool has and of a group nobody is in."),
    "trap-approved-as-seen": (
        "A tool is approved in the definition that was looked at, or not at all."
    ),
    "trap-audience-class": (
        "One audience value has one class, and a target's value belongs to one server; "
        "anything else is refused when it is declared."
    ),
    "trap-batches-and-non-json": (
        "Batches and bodies that are not one JSON-RPC message are refused, not passed on unjudged."
    ),
    "trap-case-insensitive-reader": "Arguments that differ only in case are refused.",
    "trap-challenge-missing": "Every 401 carries a challenge with the resource metadata.",
    "trap-changed-tool": (
        "A tool definition that changes after its approval is not published until it is "
        "approved again, not even with first_seen."
    ),
    "trap-act-unrecorded": (
        "A code, and what any code or refresh token yields, stands in one transaction with its "
        "event in the audit; what could not be recorded may be tried again."
    ),
    "trap-client-info-replaced": "A legacy server is told the agent's own client software.",
    "trap-client-of-two-agents": "A client belongs to at most one Agent.",
    "trap-consent-by-name": (
        "A stored consent holds for what was shown; what changed since is asked about again."
    ),
    "trap-cookie-ports": (
        "Cookies know no ports: on a host shared with other programs no cookie leaves, a "
        "session counts once, and cookies alone never open the consent page."
    ),
    "trap-cross-user": (
        "Caches key on the whole blended identity: no decision or credential of one "
        "person serves another."
    ),
    "trap-cut-unrecorded": "A cut and its event in the audit stand together or not at all.",
    "trap-database-environment": "No PG* variable changes which database is used, or how.",
    "trap-database-put-back": "A gateway believes no authority that knows less than it does.",
    "trap-decision-key": (
        "A remembered decision is keyed by every value the applicable policies read, told "
        "apart by type, and is not remembered at all where they read the raw clock."
    ),
    "trap-details": (
        "The shipped base set permits a server's credential only where the subject "
        "token's authorization details name that server."
    ),
    "trap-directory-silent": (
        "An identity provider that must be watched and does not answer for too long: everything "
        "issued for its people is out of date, and nobody logs in by it."
    ),
    "trap-empty-dpop-header": "An empty DPoP header is an error, never a bearer token.",
    "trap-empty-set": "An empty policy set, or one without grants, denies everything.",
    "trap-enrolment-code": (
        "An enrolment code works once, for ten minutes, is stored as a hash, and enrols "
        "nothing but a public ES256 key."
    ),
    "trap-epoch-rounding": (
        "An epoch refuses everything issued in the second of the action and never moves "
        "back, whatever the clocks say."
    ),
    "trap-gapless-revocations": (
        "The revocation sequence is numbered without a gap over several processes, and a "
        "write that fails leaves none."
    ),
    "trap-group-prefix": (
        "An identity provider asserts only groups of its own prefix, and only those its "
        "object may assert."
    ),
    "trap-header-injection": (
        "A secret that could end its header or start another never leaves the vault."
    ),
    "trap-inherited-name": (
        "What is declared again under an old name inherits neither enrolled keys nor "
        "approved tools."
    ),
    "trap-issuer-swapped": (
        "A callback begun at one issuer sends nothing to another that took its name meanwhile."
    ),
    "trap-list-and-call": "A tool that a list hides cannot be called with any arguments.",
    "trap-list-and-call-disagree": (
        "Nothing hidden from a list is callable, nothing listed is beyond the ceiling."
    ),
    "trap-live-set-compiles": (
        "No change of objects or tools leaves a live policy set that does not compile."
    ),
    "trap-lockout": (
        "Failed logins are counted before the password is looked at, lock the name for "
        "exponentially longer times, survive a restart, and treat unknown names like "
        "known ones."
    ),
    "trap-login-confusion": (
        "What names a command's login to a browser (its command line, the terminal) is a link that "
        "serves once, and from a command line only our own user: nobody else learns the `state` "
        "and has the command act for them."
    ),
    "trap-login-evicted": (
        "Requests somebody opens by the thousand evict only requests of their own network."
    ),
    "trap-login-flood": (
        "A flood of authorization requests evicts the oldest without a login and locks nobody out."
    ),
    "trap-lost-update": "A change planned on what somebody else has changed since is refused.",
    "trap-lost-write": (
        "What was answered as written survives the death of the process, and nobody waits "
        "for ever on a dead writer."
    ),
    "trap-migrations": (
        "Migrations lead to exactly the declared tables, in one transaction, once for all "
        "processes; a newer database is refused."
    ),
    "trap-moved-secret": "A sealed secret opens only under the name it was sealed under.",
    "trap-nested-act": "Every actor of a chain must be a registered agent.",
    "trap-no-decision": "The engine's NoDecision is a deny, for calls, credentials and lists.",
    "trap-notifications-lost": (
        "Notifications during a call reach the agent at once and unchanged."
    ),
    "trap-number-rewritten": "A number is forwarded exactly or refused.",
    "trap-odd-names": "A tool or argument with an odd name never makes a server's schema fail.",
    "trap-one-winner": "Of several processes that claim one row exactly one wins.",
    "trap-one-starves-all": (
        "One principal has a share of sessions and processes and takes none at work from others."
    ),
    "trap-pairwise-target": (
        "A person's subject is stable at one target and different at another."
    ),
    "trap-person-change": (
        "What changes of a person at the identity provider makes what was issued out of date, "
        "for exactly the people it concerns; in doubt for more."
    ),
    "trap-person-change-early": (
        "What changed before we first saw a person or session refuses what was issued before it."
    ),
    "trap-person-change-twice": (
        "A change that is reported again, or to another process, is not done again."
    ),
    "trap-pid-reuse": (
        "Facts about a process count only if it was still alive, by pidfd, after the last "
        "of them was read."
    ),
    "trap-problem-names-field": (
        "A problem names kind, name and field, says what would be right, and never "
        "repeats the value."
    ),
    "trap-reply-rewritten": "What a tool answers reaches the agent with its own bytes.",
    "trap-request-id-reuse": "Request ids on separate POSTs are independent.",
    "trap-restore-revives": (
        "Restore clears the block and keeps the epoch: nothing from before lives again."
    ),
    "trap-restore-revives-login": (
        "A login, consent or code under way from before a kill yields nothing after the restore."
    ),
    "trap-secret-in-view": (
        "No field of what a gateway gets can carry a secret, a hash or a private key, and "
        "it gets only what its own servers need."
    ),
    "trap-secret-repointed": (
        "An operator who is no admin cannot send a credential elsewhere, and no token from before "
        "a server moved is exchanged for its new place."
    ),
    "trap-session-kdf": (
        "The key of session ids is the gateway's own, for that purpose alone; no request pays for "
        "a slow derivation."
    ),
    "trap-session-readable": "A session id says nothing, and no byte of it can be changed.",
    "trap-session-swapped": (
        "A legacy session serves its own principal alone: with another person's token it is not "
        "found."
    ),
    "trap-setuid-peer": "A peer that does not run as the user that connected is refused.",
    "trap-skipped-guard": (
        "Any engine error denies, because the engine skips a policy that errs and a "
        "skipped guard would open the door."
    ),
    "trap-slow-subscriber": (
        "A subscriber that does not keep up is told to resync and holds nobody up."
    ),
    "trap-stale-registry": (
        "While the database cannot be read the picture in memory is known to be stale."
    ),
    "trap-terminal-escape": (
        "Names chosen by agents are shown to operators, never obeyed by their terminals."
    ),
    "trap-two-agents": (
        "Evidence that matches two agents is refused, whatever level either wants."
    ),
    "trap-unpopulated": (
        "A policy that reads what is not in the schema is refused when it is compiled, "
        "with its line."
    ),
    "trap-unreadable-argument": (
        "A value that Cedar has no form for is not taken for absent where a policy looks at it."
    ),
    "trap-unwritable-audit": "Nothing is attested that the audit could not take.",
    "trap-user-unit": (
        "The attested unit is what the system manager named, never what a user's own manager did."
    ),
    "trap-value-in-traceback": "No value of a statement gets into a log or a traceback.",
    "trap-whole-set": (
        "A policy set activates whole or not at all; one that names a tool not yet "
        "approved waits and the set before it stays live; at first that denies all."
    ),
    "upstream-401-renews-once": (
        "A server's 401 drops the cached credential, asks for one more, and never reaches "
        "the agent."
    ),
}
