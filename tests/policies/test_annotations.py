import pytest

from policies.annotations import Annotations, annotation_problems, parsed_annotations


@pytest.mark.parametrize(
    ("effect", "annotations"),
    [
        ("permit", {}),
        ("permit", {"id": "grant-1.a_B", "description": "What it is for.", "ttl": "900"}),
        ("permit", {"id": "a" * 128, "ttl": "1", "scope": "crm.read crm:write"}),
        ("forbid", {"id": "g", "reason": "Zu groß.", "severity": "high"}),
        ("forbid", {"remedy": "approval:finance-lead", "reason": "x" * 512}),
        ("forbid", {"remedy": "stepup:mfa"}),
        ("forbid", {"remedy": "approval:finance:lead"}),
        ("forbid", {"remedy": "wait:day"}),
        ("forbid", {"remedy": "retry:posture"}),
        ("forbid", {"remedy": "review:tool-definition"}),
    ],
)
def test_annotations_that_mean_something_are_accepted(
    effect: str, annotations: dict[str, str]
) -> None:
    assert annotation_problems(effect, annotations) == []


@pytest.mark.parametrize(
    ("effect", "name", "value", "message"),
    [
        ("permit", "id", "", "@id must be letters"),
        ("permit", "id", "-a", "@id must be letters"),
        ("permit", "id", "a b", "@id must be letters"),
        ("permit", "id", "a\n", "@id must be letters"),
        ("permit", "id", "a" * 129, "at most 128 of them"),
        ("permit", "description", "", "a text annotation must be 1 to 512 printable characters"),
        ("forbid", "reason", "x" * 513, "a text annotation must be 1 to 512"),
        ("forbid", "reason", "a\nb", "a text annotation must be"),
        ("forbid", "severity", "", "a text annotation must be"),
        ("forbid", "remedy", "ask", "@remedy must be one of approval, stepup, wait, retry, review"),
        ("forbid", "remedy", "approval:", "a colon and what to ask for"),
        ("forbid", "remedy", "bribe:boss", "@remedy must be one of"),
        ("forbid", "remedy", "approval:a\tb", "@remedy must be one of"),
        ("permit", "ttl", "0", "@ttl must be whole seconds from 1 to 900"),
        ("permit", "ttl", "901", "@ttl must be"),
        ("permit", "ttl", "1000", "@ttl must be"),
        ("permit", "ttl", "-1", "@ttl must be"),
        ("permit", "ttl", "010", "@ttl must be"),
        ("permit", "ttl", "5m", "@ttl must be"),
        ("permit", "ttl", "٣", "@ttl must be"),
        ("permit", "scope", "", "@scope must be scope tokens with one space"),
        ("permit", "scope", "a  b", "@scope must be"),
        ("permit", "scope", 'a"b', "@scope must be"),
        ("permit", "reason", "why", "@reason means nothing on a permit"),
        ("permit", "remedy", "wait:day", "@remedy means nothing on a permit"),
        ("forbid", "ttl", "900", "@ttl means nothing on a forbid"),
        ("forbid", "scope", "a", "@scope means nothing on a forbid"),
        ("permit", "tll", "900", "unknown annotation @tll; did you mean 'ttl'?"),
        ("forbid", "resaon", "x", "unknown annotation @resaon; did you mean 'reason'?"),
        ("permit", "mask", "x", "unknown annotation @mask"),
    ],
)
def test_annotation_that_would_be_ignored_or_misread_is_refused(
    effect: str, name: str, value: str, message: str
) -> None:
    ((where, found),) = annotation_problems(effect, {name: value})
    assert where == name
    assert message in found


def test_messages_say_what_would_be_right() -> None:
    wrong = {"id": "", "ttl": "", "scope": "", "description": ""}
    assert dict(annotation_problems("permit", wrong)) == {
        "id": "@id must be letters, digits, '.', '_' or '-', at most 128 of them",
        "ttl": "@ttl must be whole seconds from 1 to 900",
        "scope": "@scope must be scope tokens with one space between them",
        "description": "a text annotation must be 1 to 512 printable characters",
    }


def test_annotations_are_read_into_their_types() -> None:
    annotations = {"ttl": "300", "scope": "a b", "reason": "no", "remedy": "wait:day"}
    assert parsed_annotations(annotations) == Annotations("no", "wait:day", 300, ("a", "b"))


def test_policy_without_annotations_has_no_bounds() -> None:
    assert parsed_annotations({}) == Annotations(None, None, None, None)
