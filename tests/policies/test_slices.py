from policies.decide import MAXIMUM_BASES
from policies.reads import ARGS, DECLARED, INPUT, UNMAPPED, USER, WEEKDAY
from policies.requests import ArgumentNeeds
from policies.slices import (
    MAXIMUM_SCOPES,
    MAXIMUM_SLICES,
    CachePlan,
    argument_needs,
    cache_plan,
)
from tests.policies.story import story

NOTHING: frozenset[str] = frozenset()
NOW = ("context", "run", "clock", "now")


def plan(*paths: tuple[str, ...]) -> CachePlan | None:
    read = frozenset(paths)
    return cache_plan(read, argument_needs(read))


def test_nothing_read_needs_nothing() -> None:
    assert argument_needs(frozenset()) == ArgumentNeeds(NOTHING, NOTHING, unmapped=False)


def test_only_fields_and_pointers_that_are_read_are_needed() -> None:
    read = {
        (*INPUT, "amount"),
        (*INPUT, "target", "env"),
        (*ARGS, "[/a/b]", "str"),
        (*ARGS, "[]"),
        ("principal", "level"),
        ("context", "run", "user"),
    }
    assert argument_needs(frozenset(read)) == ArgumentNeeds(
        frozenset({"amount", "target"}), frozenset({"/a/b", ""}), unmapped=False
    )


def test_whole_input_needs_every_field() -> None:
    needs = argument_needs(frozenset({INPUT, (*INPUT, "amount")}))
    assert needs == ArgumentNeeds(None, NOTHING, unmapped=False)


def test_unmapped_needs_every_field_typed_and_no_pointer() -> None:
    assert argument_needs(frozenset({UNMAPPED})) == ArgumentNeeds(NOTHING, NOTHING, unmapped=True)


def test_whole_args_needs_every_pointer_and_what_is_unmapped() -> None:
    assert argument_needs(frozenset({ARGS})) == ArgumentNeeds(NOTHING, None, unmapped=True)


def test_whole_context_needs_everything() -> None:
    assert argument_needs(frozenset({("context",)})) == ArgumentNeeds(None, None, unmapped=True)


def test_plan_of_nothing_is_empty() -> None:
    assert plan() == CachePlan((), (), False, (), (), False)


def test_plan_names_what_is_read_in_a_stable_order() -> None:
    assert plan(
        (*INPUT, "b"),
        (*INPUT, "a", "c"),
        (*ARGS, "[/y]", "str"),
        (*ARGS, "[/x]"),
        (*DECLARED, "[task]"),
        (*DECLARED, "[model]", "name"),
        ("context", "run", "ticket"),
        ("context", "run", "chain_depth"),
        ("context", "run", "chain"),
        USER,
        (*USER, "acr"),
        ("resource", "sensitivity"),
        WEEKDAY,
    ) == CachePlan(
        input_paths=(("a", "c"), ("b",)),
        pointers=("/x", "/y"),
        all_arguments=False,
        run=("chain", "ticket"),
        declared=("model", "task"),
        weekday=True,
    )


def test_plan_of_all_that_is_declared_says_so() -> None:
    found = plan(DECLARED, (*DECLARED, "[task]"))
    assert found is not None
    assert found.declared is None


def test_plan_of_all_arguments_says_so() -> None:
    for path in (INPUT, ARGS, UNMAPPED):
        found = plan(path)
        assert found is not None
        assert found.all_arguments


def test_path_that_is_no_plain_value_is_never_remembered_whatever_else_is_read() -> None:
    others = [(*INPUT, "a"), (*ARGS, "[/x]"), WEEKDAY, USER, ("principal",), DECLARED]
    unknown = [NOW, ("context",), ("context", "run"), ("context", "run", "risk"), NOW[:3]]
    unknown += [("context", "usage", "calls"), ("context", "run", "session_facts")]
    for path in unknown:
        assert plan(path) is None
        for other in others:
            assert plan(path, other) is None
            assert plan(other) is not None


def test_caches_are_bounded() -> None:
    policies = story()
    assert policies._call_base.cache_info().maxsize == MAXIMUM_BASES
    assert policies._issue_base.cache_info().maxsize == MAXIMUM_BASES
    for slices in (policies._slices, policies._visibility.precise, policies._visibility.wide):
        assert slices.for_call.cache_info().maxsize == MAXIMUM_SCOPES
        assert slices.for_issue.cache_info().maxsize == MAXIMUM_SCOPES
        assert slices._slice.cache_info().maxsize == MAXIMUM_SLICES


def test_requests_of_one_kind_share_a_slice() -> None:
    slices = story()._slices
    one = slices.for_issue("a", (), "crm-token", "crm")
    assert slices.for_issue("b", (), "notes-key", "notes") is one
