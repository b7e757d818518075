"""What the operating system refused is said without its number."""

import pytest

from countersign.os_error_words import words_of


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (FileNotFoundError(2, "No such file or directory", "a.yaml"),
         "a.yaml: no such file or directory"),
        (OSError(98, "cannot listen at 127.0.0.1:8700"), "cannot listen at 127.0.0.1:8700"),
        (OSError("a.json holds no key"), "a.json holds no key"),
        (ValueError("[Errno 111] Connection refused"), "connection refused"),
        (ValueError("[Errno -2] Name or service not known"), "name or service not known"),
        (OSError(5, "TLS failed"), "TLS failed"),
        (TimeoutError(), "TimeoutError"),
    ],
)  # fmt: skip
def test_errors_are_sentences_without_numbers(error: Exception, words: str) -> None:
    assert words_of(error) == words
