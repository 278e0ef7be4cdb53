"""The move away from legacy tokens: who used them, what refusing them would mean, and that they ask for no less."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sealwire.contracts.addresses import EmailChange, EmailConfirmation
from sealwire.contracts.custody import SubjectErasure
from sealwire.contracts.legacy import LegacyQuery, LegacyTenant, LegacyUse, LegacyUses
from sealwire.contracts.tokens import SigningRotation
from sealwire.contracts.users import UserQuery
from sealwire.kit.caller import service_caller
from sealwire.kit.clock import US_PER_S, parse_rfc3339, rfc3339
from sealwire.kit.codec import decode_body, encode
from sealwire.kit.problem import Forbidden, Invalid
from sealwire.services.auth.config import LegacyIssuer
from sealwire.services.auth.legacy import KEPT_S
from sealwire.testing.auth_room import BOUNDARY, CHEAP, AuthRoom, somebody
from sealwire.testing.wirings import WIRINGS

SYSTEM = service_caller("gateway", "system")
SUNSET = "2030-01-01T00:00:00Z"
ISSUER = LegacyIssuer(key="k" * 40, alg="HS256", tenant="default", iss="old", sunset=SUNSET)


@pytest.fixture(params=WIRINGS)
async def room(request: Any, tmp_path: Path) -> AsyncIterator[AuthRoom]:
    room = AuthRoom(tmp_path, config=msgspec.structs.replace(CHEAP, legacy=(ISSUER,)), wiring=request.param)
    await room.open()
    yield room
    await room.close()


def now_s(room: AuthRoom) -> int:
    return room.clock.now_us() // US_PER_S


def use(room: AuthRoom, session: str, user_id: str, *, tenant: str = "default", life_s: int = 3_600) -> LegacyUse:
    return LegacyUse(
        tenant_id=tenant, session_id=session, user_id=user_id, kid="old", expires_at_s=now_s(room) + life_s,
        at_s=now_s(room),
    )  # fmt: skip


async def note(room: AuthRoom, *uses: LegacyUse) -> None:
    await room.auth.note_legacy(BOUNDARY, LegacyUses(items=list(uses)))


async def tenant(room: AuthRoom, query: LegacyQuery | None = None) -> LegacyTenant:
    (found,) = (await room.auth.legacy_report(SYSTEM, query or LegacyQuery())).items
    return found


async def test_uses_are_counted_once_a_token_and_survive_a_restart(room: AuthRoom) -> None:
    owner, _ = await room.enter("owner")
    anna = await room.add(owner, "anna")
    assert (await tenant(room)) == LegacyTenant(
        tenant_id="default", issuers=1, sunset_at=SUNSET, sessions=0, users=0, live_sessions=0, first_seen_at=None,
        last_seen_at=None, would_refuse_sessions=0, would_refuse_users=0,
    )  # fmt: skip
    begun = rfc3339(room.clock.now_us())
    await note(room, use(room, "t1", anna), use(room, "t2", anna), use(room, "t3", owner.user_id, life_s=60))
    room.advance(100)
    await note(room, use(room, "t1", anna))
    late = msgspec.structs.replace(use(room, "t1", anna), at_s=now_s(room) - 50)
    await note(room, late, use(room, "t4", "nobody"), use(room, "t5", anna, tenant="elsewhere"))
    await room.close()
    await room.open()
    found = await tenant(room)
    assert (found.sessions, found.users, found.live_sessions) == (3, 2, 2)
    assert (found.first_seen_at, found.last_seen_at) == (begun, rfc3339(room.clock.now_us()))


async def test_times_that_can_not_be_written_are_refused(room: AuthRoom) -> None:
    """Else one of them, once stored, would be in the way of every report of its tenant."""
    owner, _ = await room.enter("owner")
    decoder = msgspec.json.Decoder(LegacyUses)
    last_s = parse_rfc3339("9999-12-31T23:59:59Z") // US_PER_S
    for member in ("at_s", "expires_at_s"):
        for absurd in (last_s + 1, 2**53 - 1, 2**64):
            use_ = msgspec.to_builtins(use(room, "t1", owner.user_id)) | {member: absurd}
            with pytest.raises(Invalid) as refused:
                decode_body(decoder, encode({"items": [use_]}))
            assert refused.value.extra["path"] == f"$.items[0].{member}"
    await note(room, msgspec.structs.replace(use(room, "t1", owner.user_id), at_s=last_s, expires_at_s=last_s))
    assert (await tenant(room)).last_seen_at == "9999-12-31T23:59:59.000000Z"


async def test_a_dry_run_says_what_refusing_them_would_mean(room: AuthRoom) -> None:
    owner, _ = await room.enter("owner")
    anna = await room.add(owner, "anna")
    await note(room, use(room, "t1", anna, life_s=100), use(room, "t2", owner.user_id, life_s=10_000))
    room.advance(1_000)
    await note(room, use(room, "t3", anna, life_s=2_000))

    async def refused(offset_s: int) -> tuple[int, int]:
        at = rfc3339(room.clock.now_us() + offset_s * US_PER_S)
        found = await tenant(room, LegacyQuery(refuse_from=at))
        return found.would_refuse_sessions, found.would_refuse_users

    assert await refused(-2_000) == (3, 2), "used since then"
    assert await refused(-500) == (1, 1)
    assert await refused(0) == (2, 2), "still good now"
    at_once = await tenant(room)
    assert (at_once.would_refuse_sessions, at_once.live_sessions) == (2, 2)
    assert await refused(1_000) == (2, 2), "still good then"
    assert await refused(5_000) == (1, 1)
    assert await refused(50_000) == (0, 0)
    with pytest.raises(Invalid):
        await room.auth.legacy_report(SYSTEM, LegacyQuery(refuse_from="the day after tomorrow"))


async def test_after_the_sunset_no_token_is_called_good(room: AuthRoom) -> None:
    owner, _ = await room.enter("owner")
    left_s = parse_rfc3339(SUNSET) // US_PER_S - now_s(room)
    await note(room, use(room, "t1", owner.user_id, life_s=left_s + 5_000))
    room.advance(left_s - 10)
    assert (await tenant(room)).live_sessions == 1
    room.advance(20)
    assert (await tenant(room)).live_sessions == 0


async def test_a_token_that_ended_before_its_time_is_not_called_good(room: AuthRoom) -> None:
    """Logged out, or of before everything of its person or tenant ended: refusing it would stop nobody."""
    owner, _ = await room.enter("owner")
    anna, bert, cleo = [await room.add(owner, name) for name in ("anna", "bert", "cleo")]
    of_anna = room.caller(await room.log_in("anna"))

    async def good(*, later_s: int = 0) -> tuple[int, int, int]:
        query = LegacyQuery(refuse_from=rfc3339(room.clock.now_us() + later_s * US_PER_S)) if later_s else None
        found = await tenant(room, query)
        return found.live_sessions, found.would_refuse_sessions, found.would_refuse_users

    await note(room, use(room, "a1", anna), use(room, "a2", anna), use(room, "b1", bert), use(room, "c1", cleo))
    assert await good() == (4, 4, 3)
    end = use(room, "a1", anna)
    logged_out = msgspec.structs.replace(
        of_anna.principal, legacy=True, session_id=end.session_id, expires_at_s=end.expires_at_s
    )
    await room.auth.logout(msgspec.structs.replace(of_anna, principal=logged_out))
    assert await good() == await good(later_s=60) == (3, 3, 3)
    await room.auth.end_sessions_of(owner, bert)
    assert await good() == await good(later_s=60) == (2, 2, 2)
    found = await tenant(room, LegacyQuery(refuse_from=rfc3339(room.clock.now_us() - US_PER_S)))
    assert (found.sessions, found.would_refuse_sessions) == (4, 4), "what was used is what was used"
    room.advance(5)
    await note(room, use(room, "b2", bert))
    assert await good() == (3, 3, 3), "issued after that"
    asked = EmailChange(email="cleopatra@example.org")
    await room.auth.change_email_of(owner, cleo, asked)
    letter = next(str(x.get_content()) for x in await room.letters() if x["To"] == asked.email)
    token = letter.split("token=")[1].split()[0]
    await room.auth.confirm_email(somebody(), EmailConfirmation(token=token))
    assert await good() == (2, 2, 2), "it speaks of an address that nobody has"
    await room.auth.rotate_signing(SYSTEM, SigningRotation(compromised=True))
    assert await good() == (0, 0, 0)


async def test_people_see_their_own_tenant_and_members_none(room: AuthRoom) -> None:
    owner, _ = await room.enter("owner")
    other, _ = await room.enter("other", tenant="selftest-1")
    await room.add(owner, "anna")
    anna = room.caller(await room.log_in("anna"))
    await note(room, use(room, "t1", anna.user_id), use(room, "t2", other.user_id, tenant=other.tenant_id))
    assert [t.tenant_id for t in (await room.auth.legacy_report(owner, LegacyQuery())).items] == ["default"]
    assert [t.tenant_id for t in (await room.auth.legacy_report(other, LegacyQuery())).items] == [other.tenant_id]
    assert len((await room.auth.legacy_report(SYSTEM, LegacyQuery())).items) == 2
    for call in (room.auth.legacy_report(anna, LegacyQuery()), room.auth.note_legacy(owner, LegacyUses(items=[]))):
        with pytest.raises(Forbidden):
            await call


async def test_what_is_long_ago_and_who_was_erased_are_forgotten(room: AuthRoom) -> None:
    owner, _ = await room.enter("owner")
    anna = await room.add(owner, "anna")
    await note(room, use(room, "t1", anna), use(room, "t2", owner.user_id))
    erasure = SubjectErasure(job_id="job-1", pseudonym="nobody-1")
    await room.auth.erase_subject(service_caller("compliance", "default"), anna, erasure)
    assert (await tenant(room)).sessions == 1
    room.advance(KEPT_S + 1)
    await room.service.upkeep.sweep()
    assert (await tenant(room)).sessions == 0


async def test_a_tenant_that_asks_for_a_second_factor_says_so_of_its_people(tmp_path: Path) -> None:
    room = AuthRoom(tmp_path, config=msgspec.structs.replace(CHEAP, mfa_tenants=("default",)))
    await room.open()
    try:
        user_id = await room.register("anna")
        (profile,) = (await room.auth.profiles(BOUNDARY, UserQuery(user_ids=[user_id]))).items
        assert profile.needs_mfa
    finally:
        await room.close()
