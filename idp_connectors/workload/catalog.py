"""Which verifier checks an assertion: the unverified issuer selects exactly one, or none.

The table is built from the declared TrustProviders and rebuilt when they change; a provider that
did not change keeps its verifier, and so the keys it has fetched. Two providers
that would answer for one issuer answer for none: whichever came first would otherwise decide
whose keys are believed.
"""

from collections.abc import Callable, Mapping
from typing import Final

import structlog
from pydantic import ValidationError

from idp_connectors.catalog import WORKLOAD, WorkloadType
from idp_connectors.log_events import LogEvent
from idp_connectors.workload.spiffe import SpiffeVerifier
from idp_connectors.workload.unix_process import METHOD, UnixProcessSettings
from idp_connectors.workload.verifier import WorkloadParts, WorkloadVerifier
from registry.snapshot import ProviderRecord

DeclaredProviders = Callable[[], Mapping[str, ProviderRecord]]

_LOG: Final = structlog.get_logger()


class WorkloadVerifiers:
    """The verifiers of the TrustProviders declared now."""

    def __init__(
        self,
        declared: DeclaredProviders,
        parts: WorkloadParts,
        types: Mapping[str, WorkloadType] = WORKLOAD,
    ) -> None:
        self._declared = declared
        self._parts = parts
        self._types = types
        self._built_from: Mapping[str, ProviderRecord] | None = None
        self._by_issuer: Mapping[str, WorkloadVerifier] = {}
        self._kept: Mapping[str, tuple[ProviderRecord, WorkloadVerifier]] = {}

    def __call__(self, unverified_issuer: str) -> WorkloadVerifier | None:
        """The one verifier of this issuer, which must check it again."""
        return self.verifier_for(unverified_issuer)

    def verifier_for(self, unverified_issuer: str) -> WorkloadVerifier | None:
        """The one verifier of this issuer, which must check it again."""
        declared = self._declared()
        # Identity, not equality: a snapshot is replaced as a whole.
        if declared is not self._built_from:
            self._by_issuer = self._table(declared)
            self._built_from = declared
        return self._by_issuer.get(unverified_issuer)

    async def x509_authorities(self) -> frozenset[bytes]:
        """The certificates, in DER, of every declared trust domain that has X.509 authorities.

        For the TLS handshake alone: which of them speaks for whom is checked by each verifier.
        """
        self.verifier_for("")
        found: set[bytes] = set()
        for verifier in self._by_issuer.values():
            if isinstance(verifier, SpiffeVerifier):
                found.update(await verifier.x509_authorities())
        return frozenset(found)

    def _table(self, declared: Mapping[str, ProviderRecord]) -> dict[str, WorkloadVerifier]:
        table: dict[str, WorkloadVerifier] = {}
        built: dict[str, tuple[ProviderRecord, WorkloadVerifier]] = {}
        ambiguous: set[str] = set()
        for record in declared.values():
            before, kept = self._kept.get(record.name, (None, None))
            verifier = kept if kept is not None and before == record else self._built(record)
            if verifier is None:
                continue
            built[record.name] = (record, verifier)
            if verifier.issuer in table:
                ambiguous.add(verifier.issuer)
            table[verifier.issuer] = verifier
        self._kept = built
        for issuer in ambiguous:
            _LOG.error(LogEvent.WORKLOAD_ISSUER_AMBIGUOUS, issuer=issuer)
            del table[issuer]
        return table

    def _built(self, record: ProviderRecord) -> WorkloadVerifier | None:
        row = self._types.get(record.type)
        if row is None:
            _LOG.error(LogEvent.CONNECTOR_UNUSABLE, name=record.name, type=record.type)
            return None
        try:
            settings = row.settings.model_validate(record.settings)
        except ValidationError as problem:
            fields = [error["loc"] for error in problem.errors()]
            _LOG.error(
                LogEvent.CONNECTOR_UNUSABLE, name=record.name, type=record.type, fields=fields
            )
            return None
        return row.build(record, settings, self._parts)


def unix_process_providers(
    declared: Mapping[str, ProviderRecord],
) -> dict[str, UnixProcessSettings]:
    """The declared `unix_process` providers, for the attestation listener."""
    return {
        record.name: UnixProcessSettings.model_validate(record.settings)
        for record in declared.values()
        if record.type == METHOD
    }
