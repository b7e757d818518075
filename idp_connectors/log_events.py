"""The names of the events this package logs. A name is never reused for something else."""

from enum import StrEnum


class LogEvent(StrEnum):
    """What the log says happened."""

    ATTESTATION_LISTENING = "attestation.listening"
    ATTESTATION_WITHOUT_PIDFD = "attestation.without_pidfd"
    ATTESTATION_FAILED = "attestation.failed"
    WORKLOAD_ISSUER_AMBIGUOUS = "workload.issuer_ambiguous"
    CONNECTOR_UNUSABLE = "connector.unusable"
