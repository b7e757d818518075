"""The names of the events this package logs. A name is never reused for something else."""

from enum import StrEnum


class LogEvent(StrEnum):
    """What the log says happened."""

    POLICY_SET_UNUSABLE = "policy_set.unusable"
    CLIENT_KEYS_UNUSABLE = "client.keys_unusable"
    REQUEST_FAILED = "request.failed"
    REQUEST_UNAVAILABLE = "request.unavailable"
    REFUSAL_NOT_RECORDED = "refusal.not_recorded"
    PERSONS_CHANGED = "persons.changed"
    DIRECTORY_SILENT = "directory.silent"
    DIRECTORY_ANSWERS = "directory.answers"
