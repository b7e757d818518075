"""What each process is made of. Read this first: every arrow of the architecture is a line here.

Plain construction from settings to frozen Parts; no globals, no container, nothing is started.
Starting, draining and closing is `countersign.authz_process`. The gateway's own composition is
`mcp_gateway.assembly`: its process must not even load what this module imports.
"""

import platform
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from pydantic import BaseModel

import credential_providers.catalog
import idp_connectors.catalog
from admin_console.parts import AdminParts, PersonKey
from admin_console.setup_codes import SetupCodes
from audit_log.spool import Spool
from audit_log.store import AuditStore
from authz_server.account_cuts import cut_account_off_in
from authz_server.clients.documents import (
    MAXIMUM_CONCURRENT,
    ClientDocuments,
    DocumentHosts,
)
from authz_server.endpoints.metadata import server_metadata
from authz_server.issuing.session_seal import SessionSeal
from authz_server.issuing.signing_keys import KeyPurpose, KeyRing
from authz_server.parts import Parts
from authz_server.serving_workers import ServingWorkers
from authz_server.store.codes import CodeStore
from authz_server.store.consents import ConsentStore
from authz_server.store.interactions import InteractionStore
from authz_server.store.people import PeopleFinder
from authz_server.store.person_cuts import PersonCuts
from authz_server.store.persons import PersonStore
from authz_server.store.refresh_tokens import RefreshTokenStore
from authz_server.store.replay import OnceKind, ReplayStore, UsedOnce
from authz_server.store.reported_changes import ReportedChanges
from authz_server.store.sessions import SessionStore
from authz_server.store.signing_keys import SigningKeyStore
from authz_server.store.upstream_logins import UpstreamLoginStore
from authz_server.store.upstream_sessions import UpstreamSessionStore
from countersign.admin_facts import KnownPeople, ServerFacts
from countersign.attestation_audit import attestation_recorder
from countersign.key_files import load_or_create_kek
from countersign.policy_audit import activation_recorder
from countersign.settings import AuthzServerSettings
from credential_providers.catalog import CredentialParts, CredentialProviders
from credential_providers.vault.store import VaultStore
from database.engine import Database
from idp_connectors.workforce.catalog import PersonLogins
from idp_connectors.workforce.parts import WorkforceParts
from idp_connectors.workforce.password_hashing import PasswordHashing
from idp_connectors.workload.attestation_listener import AttestationParts
from idp_connectors.workload.catalog import WorkloadVerifiers, unix_process_providers
from idp_connectors.workload.operator_lockout import lockout_check, own_processes
from idp_connectors.workload.verifier import WorkloadParts
from outbound.discovery import DiscoveryCache
from outbound.fetcher import Fetcher
from outbound.jwks import JwksCache
from registry.acks import AckStore
from registry.enrolment import EnrolmentStore
from registry.live import LiveRegistry
from registry.revocations import RevocationStore
from registry.server_reports import ServerReportStore
from registry.store import RegistryStore
from registry.tool_catalogue import ToolCatalogue
from token_exchange.proof_of_possession import DpopProof

Clock = Callable[[], float]


def settings_models() -> dict[tuple[str, str], type[BaseModel]]:
    """(kind, type) → settings model of every connector and provider in this wheel."""
    return {
        **idp_connectors.catalog.settings_models(),
        **credential_providers.catalog.settings_models(),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthzServer:
    """Everything of one authorization-server process."""

    settings: AuthzServerSettings
    database: Database
    spool: Spool
    audit_store: AuditStore
    live: LiveRegistry
    parts: Parts
    attestation: AttestationParts
    admin: AdminParts
    setup_codes: SetupCodes
    fetchers: tuple[Fetcher, ...]
    verifiers: WorkloadVerifiers


async def compose_authz_server(
    settings: AuthzServerSettings, database: Database, clock: Clock
) -> AuthzServer:
    """Build an authorization server on an open, migrated database."""
    issuer, random = settings.issuer, secrets.token_bytes
    keys = await KeyRing.open(
        SigningKeyStore(database),
        signing_kek=load_or_create_kek(settings.keys_dir / "signing.kek"),
        vault_kek=load_or_create_kek(settings.keys_dir / "vault.kek"),
        random=random,
        now_ms=int(clock() * 1000),
    )
    models = settings_models()
    objects = RegistryStore(
        database,
        issuer=issuer,
        settings_models=models,
        clock=clock,
        machine_check=lockout_check(own_processes()),
        activated=activation_recorder(random),
    )
    # Policies shipped with a newer release join the set like an operator's change would.
    await objects.apply(objects.plan(()), "countersign")
    live = LiveRegistry(database, issuer=issuer, settings_models=models, monotonic=time.monotonic)
    spool = Spool.open(
        settings.data_dir / "spool",
        "authz-server",
        clock=clock,
        durability=settings.audit_durability,
    )
    audit_store = AuditStore(database, clock=clock)
    vault = VaultStore(database, keys.vault_private_jwk)
    fetcher = Fetcher()
    jwks = JwksCache(fetcher, clock)
    stranger_fetcher = Fetcher(maximum_concurrent=MAXIMUM_CONCURRENT)
    logins = PersonLogins(
        lambda: live.snapshot.identity_providers,
        WorkforceParts(
            issuer=issuer,
            database=database,
            hashing=PasswordHashing(),
            random=random,
            clock=clock,
            fetcher=fetcher,
            discovery=DiscoveryCache(fetcher, clock),
            jwks=jwks,
            secrets=vault,
        ),
    )
    verifiers = WorkloadVerifiers(
        lambda: live.snapshot.trust_providers,
        WorkloadParts(
            issuer=issuer,
            attestation_keys=lambda: keys.verification_keys(KeyPurpose.ATTESTATION),
            fetcher=fetcher,
            jwks=jwks,
            clock=clock,
        ),
    )
    parts = Parts(
        issuer=issuer,
        clock=clock,
        random=random,
        live=live,
        keys=keys,
        spool=spool,
        audit_store=audit_store,
        revocations=RevocationStore(database, clock),
        acks=AckStore(database),
        enrolment=EnrolmentStore(database),
        catalogue=ToolCatalogue(
            database,
            issuer=issuer,
            settings_models=models,
            clock=clock,
            activated=activation_recorder(random),
        ),
        server_reports=ServerReportStore(database),
        codes=CodeStore(database),
        sessions=SessionStore(database, random),
        consents=ConsentStore(database),
        interactions=InteractionStore(database, random),
        persons=PersonStore(database, random),
        refresh_tokens=RefreshTokenStore(database),
        replay=ReplayStore(database),
        upstream_sessions=UpstreamSessionStore(database),
        person_cuts=PersonCuts(database, clock),
        reported_changes=ReportedChanges(database),
        credential_providers=CredentialProviders(
            CredentialParts(random=random, pairwise_key=keys.pairwise_key, secrets=vault)
        ),
        client_documents=ClientDocuments(
            stranger_fetcher, _document_hosts(settings), issuer, time.monotonic
        ),
        person_logins=logins,
        upstream_logins=UpstreamLoginStore(database),
        session_seal=SessionSeal(keys.session_key, random),
        workload_verifier=verifiers,
        lease_seconds=settings.lease_seconds,
        serving_workers=ServingWorkers(time.monotonic, settings.lease_seconds),
        server_metadata=server_metadata(issuer, mtls_base_url=settings.mtls_base_url),
        mtls_base_url=settings.mtls_base_url,
    )
    setup_codes = SetupCodes(database, random=random)
    attestation = AttestationParts(
        issuer=issuer,
        host=platform.node() or "localhost",
        clock=clock,
        random=random,
        signer=keys.signer(KeyPurpose.ATTESTATION),
        providers=lambda: unix_process_providers(live.snapshot.trust_providers),
        record=attestation_recorder(spool, clock, random, parts.refusal_budgets),
    )
    return AuthzServer(
        settings=settings,
        database=database,
        spool=spool,
        audit_store=audit_store,
        live=live,
        parts=parts,
        attestation=attestation,
        admin=_admin_parts(
            parts, objects, setup_codes, vault, logins, database=database, fetcher=fetcher
        ),
        setup_codes=setup_codes,
        fetchers=(fetcher, stranger_fetcher),
        verifiers=verifiers,
    )


def _document_hosts(settings: AuthzServerSettings) -> DocumentHosts:
    bundle = settings.client_metadata_ca_bundle
    return DocumentHosts(
        allowed=settings.client_metadata_hosts,
        blocked=settings.client_metadata_blocked_hosts,
        private=settings.client_metadata_private_hosts,
        ca_bundle=None if bundle is None else str(bundle),
    )


def _admin_parts(
    parts: Parts,
    objects: RegistryStore,
    setup_codes: SetupCodes,
    vault: VaultStore,
    logins: PersonLogins,
    *,
    database: Database,
    fetcher: Fetcher,
) -> AdminParts:
    async def person_of(sub: str) -> PersonKey | None:
        known = await parts.persons.find(sub)
        if known is None:
            return None
        return PersonKey(known.identity_provider, known.issuer, known.subject)

    async def use_proof(proof: DpopProof) -> bool:
        once = UsedOnce(OnceKind.DPOP_PROOF, proof.jkt, proof.replay_key, proof.expires_at)
        return await parts.replay.use((once,), int(parts.clock())) is None

    return AdminParts(
        issuer=parts.issuer,
        clock=parts.clock,
        random=parts.random,
        registry=objects,
        live=parts.live,
        revocations=parts.revocations,
        acks=parts.acks,
        catalogue=parts.catalogue,
        server_reports=parts.server_reports,
        enrolment=parts.enrolment,
        audit_store=parts.audit_store,
        spool=parts.spool,
        refusal_budgets=parts.refusal_budgets,
        setup_codes=setup_codes,
        vault=vault,
        accounts=logins.all_local_accounts,
        cut_off=partial(cut_account_off_in, parts),
        vault_key=lambda: parts.keys.active_public_jwk(KeyPurpose.VAULT),
        control_key_thumbprint=lambda: parts.keys.active_public_jwk(KeyPurpose.CONTROL)["kid"],
        token_keys=lambda: parts.keys.verification_keys(KeyPurpose.TOKENS),
        person_of=person_of,
        use_proof=use_proof,
        system=ServerFacts(
            lease_seconds=parts.lease_seconds,
            keyring=parts.keys,
            key_store=SigningKeyStore(database),
            the_database=database,
            vault=vault,
            fetcher=fetcher,
            clock=parts.clock,
            compiler=parts.compiler,
        ),
        people=KnownPeople(
            finder=PeopleFinder(database),
            consent_store=parts.consents,
            live=parts.live,
            accounts=logins.all_local_accounts,
            clock=parts.clock,
        ),
    )
