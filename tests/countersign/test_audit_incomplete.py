"""What `audit search` says of an answer that is not complete."""

from countersign.cli.audit import _missing


def test_each_reason_why_an_answer_is_incomplete_is_one_line() -> None:
    found = {
        "gaps": [{"source": "gateway.demo.1", "first": 3, "last": 4}],
        "counted_since": "2026-11-20T10:00:00Z",
        "silent": ["gateway.demo.2"],
        "unknown": ["gateway.demo.3"],
    }
    assert list(_missing(found)) == [
        "events 3 to 4 of gateway.demo.1 are missing",
        "too large to count whole: what happened until 2026-11-20T10:00:00Z was not",
        "gateway.demo.2 was not heard of",
        "there are events of gateway.demo.3, and no record of it: somebody changed the tables",
    ]
    nothing: dict[str, object] = {"gaps": [], "counted_since": None, "silent": [], "unknown": []}
    assert list(_missing(nothing)) == []
