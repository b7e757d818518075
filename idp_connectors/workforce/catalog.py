"""The logins of the IdentityProviders declared now; rebuilt when they change."""

from collections.abc import Callable, Mapping
from typing import Final

import structlog
from pydantic import ValidationError

from idp_connectors.catalog import WORKFORCE, WorkforceType
from idp_connectors.log_events import LogEvent
from idp_connectors.workforce.local_accounts import LocalAccounts
from idp_connectors.workforce.login import PersonLogin, RedirectLogin
from idp_connectors.workforce.parts import WorkforceParts
from registry.snapshot import ProviderRecord

Login = PersonLogin | RedirectLogin

_LOG: Final = structlog.get_logger()


class PersonLogins:
    """By IdentityProvider name: what logs its people in. Empty unless declared."""

    def __init__(
        self,
        declared: Callable[[], Mapping[str, ProviderRecord]],
        parts: WorkforceParts,
        types: Mapping[str, WorkforceType] = WORKFORCE,
    ) -> None:
        self._declared = declared
        self._parts = parts
        self._types = types
        self._built_from: Mapping[str, ProviderRecord] | None = None
        self._by_name: dict[str, Login] = {}

    def __call__(self) -> dict[str, Login]:
        """Every login by the name of its IdentityProvider."""
        declared = self._declared()
        # Identity, not equality: a snapshot is replaced as a whole.
        if declared is not self._built_from:
            self._by_name = self._table(declared)
            self._built_from = declared
        return self._by_name

    def all_local_accounts(self) -> dict[str, LocalAccounts]:
        """By name, the declared IdentityProviders whose passwords are kept here."""
        return {name: login for name, login in self().items() if isinstance(login, LocalAccounts)}

    def _table(self, declared: Mapping[str, ProviderRecord]) -> dict[str, Login]:
        table: dict[str, Login] = {}
        for record in declared.values():
            row = self._types.get(record.type)
            if row is None:
                _LOG.error(LogEvent.CONNECTOR_UNUSABLE, name=record.name, type=record.type)
                continue
            try:
                settings = row.settings.model_validate(record.settings)
            except ValidationError as problem:
                fields = [error["loc"] for error in problem.errors()]
                _LOG.error(
                    LogEvent.CONNECTOR_UNUSABLE, name=record.name, type=record.type, fields=fields
                )
                continue
            table[record.name] = row.build(record, settings, self._parts)
        return table
