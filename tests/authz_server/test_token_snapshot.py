"""The compiled snapshot: made once per version, and what cannot be compiled denies."""

import asyncio
from dataclasses import replace

import msgspec
import pytest

from authz_server import compiled_snapshot
from authz_server.compiled_snapshot import CompiledSnapshot, SnapshotCompiler, compile_snapshot
from registry.snapshot import PolicyDocument, PolicySetEntry, RegistrySnapshot
from tests.authz_server.back_half import (
    ADMIN,
    CONTROL,
    CRM,
    CRM_AUDIENCE,
    CRM_URL,
    Authority,
    error_of,
)
from token_exchange.token_types import AudienceClass

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (CRM, AudienceClass.ENDPOINT),
        (CRM_URL, AudienceClass.TARGET),
        (CRM_AUDIENCE, AudienceClass.TARGET),
        (CONTROL, AudienceClass.CONTROL),
        (ADMIN, AudienceClass.ADMIN),
        (CRM + "/", None),
        ("", None),
    ],
)
async def test_token_snapshot_knows_the_class_of_an_audience(
    authority: Authority, value: str, found: AudienceClass | None
) -> None:
    compiled = await authority.parts.compiler.compiled(authority.parts.live.snapshot)
    assert compiled.audience_class(value) is found


async def test_token_snapshot_is_compiled_once_for_many_requests(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[int] = []

    def counting(
        snapshot: RegistrySnapshot, before: CompiledSnapshot | None = None
    ) -> CompiledSnapshot:
        compiled.append(1)
        return compile_snapshot(snapshot, before)

    monkeypatch.setattr(compiled_snapshot, "compile_snapshot", counting)
    compiler, snapshot = SnapshotCompiler(), authority.parts.live.snapshot
    results = await asyncio.gather(*(compiler.compiled(snapshot) for _ in range(10)))
    assert compiled == [1]
    assert all(result is results[0] for result in results)


async def test_token_snapshot_keeps_policies_that_did_not_change(authority: Authority) -> None:
    snapshot = authority.parts.live.snapshot
    before = compile_snapshot(snapshot)
    assert before.policies is not None
    newer = msgspec.structs.replace(snapshot, version=snapshot.version + 1)
    assert compile_snapshot(newer, before).policies is before.policies
    other = msgspec.structs.replace(snapshot, policies=PolicySetEntry(99))
    assert compile_snapshot(other, before).policies is not before.policies


async def test_token_snapshot_with_policies_that_do_not_compile_denies(
    authority: Authority,
) -> None:
    gateway = await authority.enrolled()
    token = authority.sign_token(authority.blended())
    assert (await gateway.exchange(token)).status_code == 200
    live = authority.parts.live
    broken = PolicySetEntry(99, (PolicyDocument("broken", "permit (principal"),))
    live._swap(
        replace(live.state, snapshot=msgspec.structs.replace(live.snapshot, policies=broken))
    )
    assert error_of(await gateway.exchange(token)) == "access_denied"


async def test_token_snapshot_with_one_clients_bad_key_shuts_out_that_client_only(
    authority: Authority,
) -> None:
    snapshot = authority.parts.live.snapshot
    bad = msgspec.structs.replace(snapshot.clients["portal"], jwks=({"kty": "EC"},))
    compiled = compile_snapshot(
        msgspec.structs.replace(snapshot, clients={**snapshot.clients, "portal": bad})
    )
    assert not compiled.client_keys["portal"].by_key_id
