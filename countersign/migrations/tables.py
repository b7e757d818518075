"""Every table of every package: importing this module completes `METADATA`."""
# ruff: noqa: F401 - imported for the tables they declare

from typing import Final

from sqlmodel import SQLModel

import admin_console.setup_codes
import audit_log.event_rows
import authz_server.store.codes
import authz_server.store.consents
import authz_server.store.interactions
import authz_server.store.persons
import authz_server.store.refresh_tokens
import authz_server.store.replay
import authz_server.store.reported_changes
import authz_server.store.sessions
import authz_server.store.signing_keys
import authz_server.store.upstream_logins
import authz_server.store.upstream_sessions
import credential_providers.vault.store
import idp_connectors.workforce.account_store
import idp_connectors.workforce.login_attempts
import registry.acks
import registry.counters
import registry.enrolment
import registry.history
import registry.object_rows
import registry.policy_sets
import registry.revocation_rows
import registry.server_reports
import registry.tool_definitions

METADATA: Final = SQLModel.metadata
