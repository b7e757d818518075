"""Exactly one `Authorization: DPoP` header names a token; everything else names none."""

import pytest

from authz_server.clients.presented_token import presented_token


@pytest.mark.parametrize("header", ["DPoP a.b.c", "dpop a.b.c", "DPOP  a.b.c "])
def test_token_of_the_one_dpop_header_is_taken_in_any_case_of_its_scheme(header: str) -> None:
    assert presented_token([header]) == "a.b.c"


@pytest.mark.parametrize(
    "headers",
    [[], ["Bearer a.b.c"], ["DPoPa.b.c"], ["DPoP a.b.c", "DPoP a.b.c"], ["DPoP a.b.c", "Basic x"]],
)
def test_no_header_another_scheme_and_a_second_header_name_no_token(headers: list[str]) -> None:
    assert presented_token(headers) is None
