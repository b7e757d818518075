"""Every table of release 0.1.

Revision 0001. There is no way down: going back to before the first release is deleting the file.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables, package by package."""
    _create_registry_objects()
    _create_tool_catalogue()
    _create_revocations()
    _create_gateway_enrolment()
    _create_authorization_flow()
    _create_keys_and_secrets()
    _create_accounts()
    _create_audit()


def _create_registry_objects() -> None:
    op.create_table(
        "registry_counters",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_registry_counters"),
    )
    op.create_table(
        "registry_objects",
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("author", sa.String(), nullable=False),
        sa.Column("changed_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "name", name="pk_registry_objects"),
    )
    op.create_table(
        "registry_history",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("registry_version", sa.BigInteger(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("spec", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("author", sa.String(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_registry_history"),
        sa.UniqueConstraint(
            "kind",
            "name",
            "registry_version",
            name="uq_registry_history_kind_name_registry_version",
        ),
    )
    op.create_table(
        "policy_sets",
        sa.Column("version", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("documents", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("waiting_for", sa.JSON(), nullable=False),
        sa.Column("author", sa.String(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("activated_at_ms", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("version", name="pk_policy_sets"),
    )


def _create_tool_catalogue() -> None:
    op.create_table(
        "tool_definitions",
        sa.Column("server", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("definition", sa.JSON(), nullable=False),
        sa.Column("first_seen_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("server", "name", "digest", name="pk_tool_definitions"),
    )
    op.create_table(
        "tool_status",
        sa.Column("server", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("first_digest", sa.String(), nullable=False),
        sa.Column("observed_digest", sa.String(), nullable=True),
        sa.Column("approved_digest", sa.String(), nullable=True),
        sa.Column("approved_by", sa.String(), nullable=True),
        sa.Column("approved_at_ms", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("server", "name", name="pk_tool_status"),
    )


def _create_revocations() -> None:
    op.create_table(
        "revocations",
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("subject_id", sa.String(), nullable=False),
        sa.Column("blocked", sa.Boolean(), nullable=False),
        sa.Column("not_before", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("author", sa.String(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name="pk_revocations"),
    )
    op.create_index(
        "ix_revocations_kind_subject_id_sequence", "revocations", ["kind", "subject_id", "sequence"]
    )
    op.create_table(
        "gateway_acks",
        sa.Column("gateway", sa.String(), nullable=False),
        sa.Column("worker", sa.String(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("applied_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("received_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("gateway", "worker", "sequence", "version", name="pk_gateway_acks"),
    )
    op.create_index("ix_gateway_acks_received_at_ms", "gateway_acks", ["received_at_ms"])


def _create_gateway_enrolment() -> None:
    op.create_table(
        "enrolment_codes",
        sa.Column("code_hash", sa.String(), nullable=False),
        sa.Column("gateway", sa.String(), nullable=False),
        sa.Column("author", sa.String(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("used_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("code_hash", name="pk_enrolment_codes"),
    )
    op.create_table(
        "gateway_keys",
        sa.Column("thumbprint", sa.String(), nullable=False),
        sa.Column("gateway", sa.String(), nullable=False),
        sa.Column("jwk", sa.JSON(), nullable=False),
        sa.Column("enrolled_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("thumbprint", name="pk_gateway_keys"),
    )
    op.create_index("ix_gateway_keys_gateway", "gateway_keys", ["gateway"])


def _create_authorization_flow() -> None:
    op.create_table(
        "authorization_codes",
        sa.Column("code_digest", sa.String(length=64), nullable=False),
        sa.Column("granted", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("used_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("code_digest", name="pk_authorization_codes"),
    )
    op.create_index("ix_authorization_codes_expires_at", "authorization_codes", ["expires_at"])
    op.create_table(
        "interactions",
        sa.Column("interaction_id", sa.String(length=64), nullable=False),
        sa.Column("browser_digest", sa.String(length=64), nullable=False),
        sa.Column("request", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("login_sid", sa.String(length=64), nullable=True),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("interaction_id", name="pk_interactions"),
    )
    op.create_index("ix_interactions_expires_at", "interactions", ["expires_at"])
    op.create_table(
        "login_sessions",
        sa.Column("cookie_digest", sa.String(length=64), nullable=False),
        sa.Column("sid", sa.String(length=64), nullable=False),
        sa.Column("sub", sa.String(length=64), nullable=False),
        sa.Column("person", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("cookie_digest", name="pk_login_sessions"),
        sa.UniqueConstraint("sid", name="uq_login_sessions_sid"),
    )
    op.create_index("ix_login_sessions_expires_at", "login_sessions", ["expires_at"])
    op.create_index("ix_login_sessions_sub", "login_sessions", ["sub"])
    op.create_table(
        "consents",
        sa.Column("gid", sa.String(length=64), nullable=False),
        sa.Column("sub", sa.String(length=64), nullable=False),
        sa.Column("agent", sa.String(length=64), nullable=False),
        sa.Column("server", sa.String(length=64), nullable=False),
        sa.Column("tools", sa.LargeBinary(), nullable=False),
        sa.Column("scope", sa.String(length=1024), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("gid", name="pk_consents"),
    )
    op.create_index("ix_consents_expires_at", "consents", ["expires_at"])
    op.create_index("ix_consents_sub", "consents", ["sub"])
    op.create_table(
        "persons",
        sa.Column("sub", sa.String(length=64), nullable=False),
        sa.Column("identity_provider", sa.String(length=64), nullable=False),
        sa.Column("issuer", sa.String(length=2048), nullable=False),
        sa.Column("subject", sa.String(length=512), nullable=False),
        sa.Column("display_name", sa.String(length=512), nullable=False),
        sa.Column("first_seen_at", sa.BigInteger(), nullable=False),
        sa.Column("last_login_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("sub", name="pk_persons"),
        sa.UniqueConstraint(
            "identity_provider",
            "issuer",
            "subject",
            name="uq_persons_identity_provider_issuer_subject",
        ),
    )


def _create_keys_and_secrets() -> None:
    op.create_table(
        "signing_keys",
        sa.Column("key_id", sa.String(length=64), nullable=False),
        sa.Column("purpose", sa.String(length=32), nullable=False),
        sa.Column("algorithm", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("public_jwk", sa.String(length=1024), nullable=False),
        sa.Column("nonce", sa.LargeBinary(), nullable=False),
        sa.Column("sealed_private", sa.LargeBinary(), nullable=False),
        sa.Column("kek_id", sa.String(length=64), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("key_id", name="pk_signing_keys"),
    )
    op.create_index(
        "ix_signing_keys_one_active",
        "signing_keys",
        ["purpose"],
        unique=True,
        sqlite_where=sa.text("state = 'active'"),
        postgresql_where=sa.text("state = 'active'"),
    )
    op.create_index("ix_signing_keys_purpose", "signing_keys", ["purpose"])
    op.create_table(
        "sealed_secrets",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("key_id", sa.String(length=64), nullable=False),
        sa.Column("sealed", sa.Text(), nullable=False),
        sa.Column("author", sa.String(length=256), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", "version", name="pk_sealed_secrets"),
    )
    op.create_table(
        "used_once",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_used_once"),
    )
    op.create_index("ix_used_once_expires_at", "used_once", ["expires_at"])


def _create_accounts() -> None:
    op.create_table(
        "local_accounts",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("provider", sa.String(length=63), nullable=False),
        sa.Column("username", sa.String(length=64), nullable=False),
        sa.Column("display_name", sa.String(length=128), nullable=False),
        sa.Column("password_hash", sa.String(length=256), nullable=False),
        sa.Column("groups", sa.Text(), nullable=False),
        sa.Column("disabled", sa.Boolean(), nullable=False),
        sa.Column("author", sa.String(length=256), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_local_accounts"),
        sa.UniqueConstraint("provider", "username", name="uq_local_accounts_provider_username"),
    )
    op.create_table(
        "login_attempts",
        sa.Column("name_hash", sa.String(length=64), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("locked_until", sa.BigInteger(), nullable=False),
        sa.Column("last_attempt", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name_hash", name="pk_login_attempts"),
    )
    op.create_index("ix_login_attempts_last_attempt", "login_attempts", ["last_attempt"])
    op.create_table(
        "setup_codes",
        sa.Column("code_hash", sa.String(length=64), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("used_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("code_hash", name="pk_setup_codes"),
    )


def _create_audit() -> None:
    op.create_table(
        "audit_events",
        sa.Column("position", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("event_id", sa.String(length=128), nullable=False),
        sa.Column("source", sa.String(length=192), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("timestamp_ms", sa.BigInteger(), nullable=False),
        sa.Column("received_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("decision_id", sa.String(), nullable=True),
        sa.Column("agent", sa.String(), nullable=True),
        sa.Column("user", sa.String(), nullable=True),
        sa.Column("target_service", sa.String(), nullable=True),
        sa.Column("tool", sa.String(), nullable=True),
        sa.Column("session", sa.String(), nullable=True),
        sa.Column("invocation", sa.String(), nullable=True),
        sa.Column("transaction", sa.String(), nullable=True),
        sa.Column("object_ref", sa.String(), nullable=True),
        sa.Column("author", sa.String(), nullable=True),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("position", name="pk_audit_events"),
        sa.UniqueConstraint("event_id", name="uq_audit_events_event_id"),
        sa.UniqueConstraint("source", "sequence", name="uq_audit_events_source_sequence"),
    )
    op.create_index("ix_audit_events_agent_position", "audit_events", ["agent", "position"])
    op.create_index("ix_audit_events_decision_id", "audit_events", ["decision_id"])
    op.create_index("ix_audit_events_session_position", "audit_events", ["session", "position"])
    op.create_index("ix_audit_events_timestamp_ms", "audit_events", ["timestamp_ms"])
    op.create_index("ix_audit_events_tool_position", "audit_events", ["tool", "position"])
    op.create_index("ix_audit_events_user_position", "audit_events", ["user", "position"])
    op.create_table(
        "audit_sources",
        sa.Column("source", sa.String(length=192), nullable=False),
        sa.Column("high_water", sa.BigInteger(), nullable=False),
        sa.Column("is_stopped", sa.Boolean(), nullable=False),
        sa.Column("first_reported_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("reported_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("last_event_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("source", name="pk_audit_sources"),
    )
