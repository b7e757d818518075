"""A value that Cedar has no form for does not slip past the policies that look at it."""

import pytest

from policies.decide import Code
from policies.evaluate import ARGUMENT_UNREADABLE_REASON
from policies.input_types import input_type
from policies.readable import ArgumentReads, argument_reads, unreadable_argument
from policies.schema import ServerCatalogue
from tests.policies.story import call, compiled

PAYMENT = {
    "type": "object",
    "properties": {
        "amount": {"type": "number"},
        "count": {"type": "integer"},
        "to": {"type": "string"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "bank": {
            "type": "object",
            "properties": {"country": {"type": "string"}, "number": {"type": "integer"}},
        },
        "a/b": {"type": "string"},
    },
}
BANK = ServerCatalogue("bank", (), [("pay", PAYMENT, False, 0)])
ALLOW = '@id("allow") permit (principal, action, resource);'
PAY = 'principal, action == Action::"bank/pay", resource'
AMOUNT = 'context.input has amount && context.input.amount.greaterThan(decimal("500.0"))'
TO = (
    'context.args.hasTag("/to") && context.args.getTag("/to") has str &&'
    ' context.args.getTag("/to").str like "*@evil.example"'
)


def decided(arguments: dict[str, object], *cedar: str) -> tuple[bool, str]:
    decision = compiled(*cedar, servers=(BANK,)).decide_call(call("pay", arguments, server=BANK))
    return decision.allowed, decision.code


@pytest.mark.requirement("trap-unreadable-argument")
@pytest.mark.parametrize(
    ("amount", "code"),
    [
        (499, Code.ALLOWED),
        (499.9999, Code.ALLOWED),
        (None, Code.ALLOWED),
        (501, Code.FORBIDDEN),
        (900.00001, Code.REQUEST_INVALID),
        (10**15, Code.REQUEST_INVALID),
        ("900", Code.REQUEST_INVALID),
        ([900], Code.REQUEST_INVALID),
        ({"amount": 900}, Code.REQUEST_INVALID),
        (True, Code.REQUEST_INVALID),
    ],
)
@pytest.mark.parametrize(
    "policies",
    [
        (ALLOW, f'@id("guard") forbid ({PAY}) when {{ {AMOUNT} }};'),
        (f'@id("grant") permit ({PAY}) unless {{ {AMOUNT} }};',),
    ],
    ids=["guard", "grant"],
)
def test_amount_that_is_no_decimal_is_not_taken_for_none(
    policies: tuple[str, ...], amount: object, code: Code
) -> None:
    if code == Code.FORBIDDEN and len(policies) == 1:
        code = Code.NO_PERMIT
    assert decided({"amount": amount}, *policies) == (code == Code.ALLOWED, code)


@pytest.mark.requirement("trap-unreadable-argument")
def test_absent_argument_and_one_nobody_looks_at_are_no_reason_to_refuse() -> None:
    guard = f'@id("guard") forbid ({PAY}) when {{ {AMOUNT} }};'
    assert decided({}, ALLOW, guard) == (True, Code.ALLOWED)
    assert decided({"count": 10**30, "x": {"y": []}}, ALLOW, guard) == (True, Code.ALLOWED)


@pytest.mark.requirement("trap-unreadable-argument")
def test_what_is_denied_anyway_keeps_its_reason() -> None:
    guard = f'@id("guard") @reason("At most 500.") forbid ({PAY}) unless {{ !({AMOUNT}) }};'
    given = (
        f'@id("given") @reason("How much?") forbid ({PAY}) unless {{ context.input has amount }};'
    )
    decision = compiled(ALLOW, guard, given, servers=(BANK,)).decide_call(
        call("pay", {"amount": "900"}, server=BANK)
    )
    assert (decision.code, decision.reasons) == (Code.FORBIDDEN, ("How much?",))


@pytest.mark.requirement("trap-unreadable-argument")
def test_agent_is_told_why_and_the_operator_where() -> None:
    guard = f'@id("guard") forbid ({PAY}) when {{ {AMOUNT} }};'
    decision = compiled(ALLOW, guard, servers=(BANK,)).decide_call(
        call("pay", {"amount": "900"}, server=BANK)
    )
    assert decision.reasons == (ARGUMENT_UNREADABLE_REASON,)
    assert decision.failed_conditions == ("the value at '/amount' has no form in Cedar",)


# Another policy, of nothing to do with it, that says only when it is asked which tag it looks at.
COMPUTED = (
    f'@id("other") forbid ({PAY}) when {{'
    ' context.args.hasTag(if principal.level > 1 then "/a" else "/b") };'
)


@pytest.mark.requirement("trap-unreadable-argument")
@pytest.mark.parametrize("others", [(), (COMPUTED,)], ids=["alone", "beside a computed tag"])
@pytest.mark.parametrize(
    ("to", "code"),
    [
        ("me@good.example", Code.ALLOWED),
        (None, Code.ALLOWED),
        ("you@evil.example", Code.FORBIDDEN),
        (["you@evil.example"], Code.REQUEST_INVALID),
        ({"mail": "you@evil.example"}, Code.REQUEST_INVALID),
        (10**30, Code.REQUEST_INVALID),
    ],
)
def test_text_wrapped_into_a_list_is_not_taken_for_none(
    to: object, code: Code, others: tuple[str, ...]
) -> None:
    guard = f'@id("guard") forbid ({PAY}) when {{ {TO} }};'
    assert decided({"to": to}, ALLOW, guard, *others) == (code == Code.ALLOWED, code)


@pytest.mark.requirement("trap-unreadable-argument")
@pytest.mark.parametrize("others", [(), (COMPUTED,)], ids=["alone", "beside a computed tag"])
@pytest.mark.parametrize(
    ("copies", "code"),
    [
        (["me@good.example"], Code.ALLOWED),
        ([], Code.ALLOWED),
        (["you@evil.example"], Code.FORBIDDEN),
        (["you@evil.example", 1], Code.REQUEST_INVALID),
        (["you@evil.example", ["me"]], Code.REQUEST_INVALID),
        (["you@evil.example", None], Code.REQUEST_INVALID),
        ("you@evil.example", Code.REQUEST_INVALID),
    ],
)
def test_set_with_something_else_in_it_is_not_taken_for_none(
    copies: object, code: Code, others: tuple[str, ...]
) -> None:
    guard = (
        f'@id("guard") forbid ({PAY}) when {{ context.args.hasTag("/cc/*") &&'
        ' context.args.getTag("/cc/*") has set &&'
        ' context.args.getTag("/cc/*").set.contains("you@evil.example") };'
    )
    assert decided({"cc": copies}, ALLOW, guard, *others) == (code == Code.ALLOWED, code)


@pytest.mark.requirement("trap-unreadable-argument")
@pytest.mark.parametrize("to", [["you@evil.example"], {"mail": "you@evil.example"}])
def test_tag_whose_name_is_computed_from_texts_is_looked_for_at_each(to: object) -> None:
    guard = (
        f'@id("guard") forbid ({PAY}) when {{'
        ' context.args.hasTag(if principal.level > 1 then "/from" else "/to") };'
    )
    assert decided({"to": to}, ALLOW, guard) == (False, Code.REQUEST_INVALID)
    assert decided({"other": to}, ALLOW, guard) == (True, Code.ALLOWED)


def unreadable(arguments: dict[str, object], *reads: str) -> str | None:
    """What of the arguments cannot be read by pointers, such as `/to`, or paths, such as `to`."""
    paths = [
        ("context", "args", f"[{each}]")
        if each[:1] == "/"
        else ("context", "input", *each.split("."))
        for each in reads
    ]
    return unreadable_argument(arguments, input_type(PAYMENT), argument_reads(paths))


@pytest.mark.parametrize(
    ("reads", "arguments", "found"),
    [
        # a list and a scalar, for who looks at both
        (("/to", "/to/*"), {"to": ["a", "b"]}, None),
        (("/to", "/to/*"), {"to": "a"}, None),
        (("/to", "/to/*"), {"to": []}, None),
        (("/to", "/to/*"), {"to": ["a", 1]}, "/to/*"),
        (("/to", "/to/*"), {"to": {"*": None}}, "/to"),
        (("/to", "/to/*"), {"to": {"mail": "a"}}, "/to"),
        (("/to/*",), {"to": "a"}, "/to/*"),
        (("/to/*",), {"to": None}, None),
        (("/to/0",), {"to": "a"}, "/to/0"),
        (("/to/0", "/to/1"), {"to": "a"}, "/to/0"),
        (("/to/0",), {"to": []}, None),
        (("/to/0",), {"to": ["a"]}, None),
        (("/to/name",), {"to": ["a"]}, "/to/name"),
        # below a record
        (("/bank/country",), {"bank": {"country": "de"}}, None),
        (("/bank/country",), {"bank": {}}, None),
        (("/bank/country",), {"bank": "de"}, "/bank/country"),
        (("/bank", "/bank/country"), {"bank": "de"}, None),
        (("/bank", "/bank/country"), {"bank": {"country": "de"}}, None),
        (("/bank", "/bank/country"), {"bank": {"number": 1}}, "/bank"),
        (("/bank", "/bank/country"), {"bank": {"country": None}}, "/bank"),
        (("/bank", "/bankers"), {"bank": {}, "bankers": "x"}, "/bank"),
        (("/a~1b",), {"a/b": ["x"]}, "/a~1b"),
        # typed
        (("bank", "bank.country"), {"bank": {"country": "de", "number": "x"}}, None),
        (("bank", "bank.country"), {"bank": {"country": 7}}, "/bank/country"),
        (("bank", "bank.country"), {"bank": "de"}, "/bank"),
        (("bank.country",), {"bank": None}, None),
        (("bank",), {"bank": {"country": "de", "number": 1, "more": []}}, None),
        (("bank",), {"bank": {"country": "de", "number": "x"}}, "/bank"),
        (("tags",), {"tags": ["a", "b"]}, None),
        (("tags",), {"tags": ["a", 1]}, "/tags"),
        (("tags",), {"tags": "a"}, "/tags"),
        (("a/b",), {"a/b": 1}, "/a~1b"),
        (("more",), {"more": 1}, "/more"),
        (("more",), {}, None),
    ],
)  # fmt: skip
def test_value_is_readable_when_it_is_typed_tagged_or_looked_into(
    reads: tuple[str, ...], arguments: dict[str, object], found: str | None
) -> None:
    assert unreadable(arguments, *reads) == found


@pytest.mark.parametrize(
    ("path", "reads"),
    [
        (("context", "input"), ArgumentReads((((), True),), frozenset())),
        (("context", "args"), ArgumentReads((), frozenset(), is_any_tag=True)),
        (("context", "args", "tags"), ArgumentReads((), frozenset(), is_any_tag=True)),
        (("context", "args", "unmapped"), ArgumentReads((), frozenset())),
        (("context", "args", "[]"), ArgumentReads((), frozenset({""}))),
        (("context",), ArgumentReads((((), True),), frozenset(), is_any_tag=True)),
        (("context", "run", "user"), ArgumentReads((), frozenset())),
    ],
)
def test_reads_that_are_not_of_one_argument_are_of_all(
    path: tuple[str, ...], reads: ArgumentReads
) -> None:
    assert argument_reads([path]) == reads


def test_all_arguments_are_looked_at_where_a_tag_is_computed() -> None:
    everything = argument_reads([("context", "args")])
    of = input_type(PAYMENT)
    readable = {"to": ["a", "b"], "x": [1, None, {"y": 0.5}], "z": None}
    assert unreadable_argument(readable, of, everything) is None
    assert unreadable_argument({"x": ["a", 1]}, of, everything) == "/x/*"
    assert unreadable_argument({"x": [1, {"y": 10**30}]}, of, everything) == "/x/1/y"


def test_whole_input_is_looked_at_as_far_as_it_is_declared() -> None:
    whole = argument_reads([("context", "input")])
    of = input_type(PAYMENT)
    assert unreadable_argument({"to": "a", "more": [{}]}, of, whole) is None
    assert unreadable_argument({"bank": {"number": 0.5}}, of, whole) == ""
