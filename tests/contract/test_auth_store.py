"""The promises of auth's storage, over every family."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import pytest

from sealwire.contracts.users import EmailTaken, LastOwner, RegistrationClosed
from sealwire.kit.ids import new_id
from sealwire.kit.permission import Role
from sealwire.kit.problem import QuotaExceeded
from sealwire.ports.events import NewEvent
from sealwire.services.auth.model import Counted, Rotation, Verdict
from sealwire.services.auth.passkey_store import Removal
from sealwire.services.auth.ports import AuthStores
from sealwire.services.auth.records import (
    Challenge,
    Cut,
    NewRevocation,
    Reason,
    RefreshUse,
    SessionRecord,
    SigningKeyRecord,
    TenantRecord,
    UserRecord,
)
from sealwire.testing.auth_room import open_auth_stores
from sealwire.testing.backends import FAMILIES

T0 = 1_800_000_000_000_000
S = 1_000_000


@pytest.fixture(params=FAMILIES)
def family(request: Any) -> str:
    return request.param


@pytest.fixture
async def stores(family: str, tmp_path: Any) -> AsyncIterator[AuthStores]:
    async with open_auth_stores(family, tmp_path) as opened:
        await opened.tenants.add(TenantRecord(tenant_id="t1", slug="one", name="One", created_us=T0), [])
        yield opened


def event(kind: str = "k", tenant_id: str = "t1") -> NewEvent:
    return NewEvent(event_id=new_id(), tenant_id=tenant_id, kind=kind, at_us=T0, data=b"x")


def user(name: str = "anna", tenant_id: str = "t1", **changes: Any) -> UserRecord:
    base: dict[str, Any] = {
        "user_id": f"u-{tenant_id}-{name}",
        "tenant_id": tenant_id,
        "email_index": name.encode(),
        "sealed": b"sealed " + name.encode(),
        "role": Role.MEMBER,
        "password_hash": "hash",
        "created_us": T0,
    }
    return UserRecord(**{**base, **changes})


def session(owner: UserRecord, session_id: str = "s1", **changes: Any) -> SessionRecord:
    base: dict[str, Any] = {
        "session_id": session_id,
        "tenant_id": owner.tenant_id,
        "user_id": owner.user_id,
        "epoch": owner.epoch,
        "created_us": T0,
        "seen_us": T0,
        "expires_us": T0 + 1_000 * S,
        "auth_us": T0,
        "amr": ("pwd", "otp"),
        "client_id": "c",
        "sealed_secret": b"secret",
        "sealed_origin": b"origin",
    }
    return SessionRecord(**{**base, **changes})


def revocation(kind: Any = "session", **changes: Any) -> NewRevocation:
    base: dict[str, Any] = {
        "change_id": new_id(),
        "kind": kind,
        "tenant_id": "t1",
        "at_us": T0 + 5,
        "expires_at_s": T0 // S + 100,
        "reason": Reason.LOGOUT,
    }
    return NewRevocation(**{**base, **changes})


async def add(
    stores: AuthStores, new: UserRecord, *, most: int = 100, claim_owner: bool = False, needs_claim: bool = False
) -> UserRecord:
    return await stores.users.add(
        new, most=most, claim_owner=claim_owner, needs_claim=needs_claim, events_of=lambda u: [event(u.role.value)]
    )


async def open_session(
    stores: AuthStores, new: SessionRecord, *, most: int = 10, forgive: Sequence[bytes] = (), place: bytes = b"home"
) -> bool:
    return await stores.sessions.open(
        new,
        place=place,
        most=most,
        forgive=forgive,
        revoke=lambda oldest: revocation(session_id=oldest, reason=Reason.LIMIT),
        events=[event("opened")],
        ended_event=lambda oldest: event(f"ended {oldest}"),
    )


async def kinds(stores: AuthStores) -> list[str]:
    return [e.kind for e in await stores.events.read(0, 1_000)]


# ---- tenants


async def test_a_slug_is_given_once(stores: AuthStores) -> None:
    first, second = (TenantRecord(tenant_id=i, slug="two", name="Two", created_us=T0) for i in ("t2", "t3"))
    answers = await asyncio.gather(
        stores.tenants.add(first, [event("made")]), stores.tenants.add(second, [event("made")])
    )
    assert answers == [first, first]
    assert await kinds(stores) == ["made"]
    assert await stores.tenants.find("two") == await stores.tenants.find("t2") == first
    assert await stores.tenants.find("t3") is None


async def test_a_removed_tenant_takes_everything_with_it(stores: AuthStores) -> None:
    anna = await add(stores, user())
    await open_session(stores, session(anna))
    await stores.mfa.enroll(anna.user_id, b"secret", T0, [])
    assert await stores.tenants.remove("t1", revocation("tenant"), [event("removed")])
    assert not await stores.tenants.remove("t1", revocation("tenant"), [event("removed")])
    assert await stores.tenants.find("t1") is None
    assert await stores.users.get(anna.user_id) is None
    assert await stores.sessions.get("s1") is None
    assert await stores.mfa.totp(anna.user_id) is None
    assert [r.kind for r in await stores.revocations.read(0, 10)] == ["tenant"]
    assert (await kinds(stores)).count("removed") == 1
    with pytest.raises(RegistrationClosed):
        await add(stores, user("ben"))


async def test_throwaway_tenants_are_found_by_age(stores: AuthStores) -> None:
    for tenant_id, slug, at in (("a", "selftest-1", T0), ("b", "selftest-2", T0 + 10), ("c", "selftestx", T0)):
        await stores.tenants.add(TenantRecord(tenant_id=tenant_id, slug=slug, name="x", created_us=at), [])
    assert [t.tenant_id for t in await stores.tenants.made_before("selftest-", T0 + 10, 10)] == ["a"]


# ---- users


async def test_an_address_is_registered_once_per_tenant(stores: AuthStores) -> None:
    await stores.tenants.add(TenantRecord(tenant_id="t2", slug="two", name="Two", created_us=T0), [])
    again = user(user_id="another")
    answers = await asyncio.gather(add(stores, user()), add(stores, again), return_exceptions=True)
    assert answers[0] == user()
    assert isinstance(answers[1], EmailTaken)
    await add(stores, user(tenant_id="t2"))
    assert await stores.users.by_email("t1", b"anna") == user()
    assert await stores.users.get("another") is None
    assert await kinds(stores) == ["member", "member"], "a refused one leaves no event"


async def test_two_first_registrations_make_one_owner(stores: AuthStores) -> None:
    made = await asyncio.gather(*(add(stores, user(f"p{i}"), claim_owner=True) for i in range(20)))
    assert [u.role for u in made].count(Role.OWNER) == 1
    assert (await kinds(stores)).count("owner") == 1
    tenant = await stores.tenants.find("t1")
    assert tenant is not None
    assert tenant.owner_claimed
    await stores.users.cut(Cut(tenant_id="t1", user_id="u-t1-p5", reason=Reason.ROLE, revocation=revocation("role"),
                               role=Role.OWNER), [])  # fmt: skip
    owner = next(u for u in made if u.role is Role.OWNER)
    await stores.users.cut(Cut(tenant_id="t1", user_id=owner.user_id, reason=Reason.ROLE, revocation=revocation("role"),
                               role=Role.MEMBER), [])  # fmt: skip
    assert (await add(stores, user("late"), claim_owner=True)).role is Role.MEMBER, "never twice"
    with pytest.raises(RegistrationClosed):
        await add(stores, user("later"), claim_owner=True, needs_claim=True)


async def test_the_quota_holds_under_concurrency(stores: AuthStores) -> None:
    answers = await asyncio.gather(*(add(stores, user(f"p{i}"), most=3) for i in range(8)), return_exceptions=True)
    assert sum(isinstance(a, QuotaExceeded) for a in answers) == 5
    assert len(await stores.users.page("t1", "", 100)) == 3


async def test_pages_and_batches_stay_in_the_tenant(stores: AuthStores) -> None:
    await stores.tenants.add(TenantRecord(tenant_id="t2", slug="two", name="Two", created_us=T0), [])
    for name in "abc":
        await add(stores, user(name))
        await add(stores, user(name, "t2"))
    first = await stores.users.page("t1", "", 2)
    rest = await stores.users.page("t1", first[-1].user_id, 2)
    assert [u.user_id for u in (*first, *rest)] == ["u-t1-a", "u-t1-b", "u-t1-c"]
    some = await stores.users.many("t1", ["u-t1-a", "u-t2-b", "nobody"])
    assert [u.user_id for u in some] == ["u-t1-a"]
    assert await stores.users.many("t1", []) == []


async def test_a_better_hash_never_undoes_a_new_password(stores: AuthStores) -> None:
    anna = await add(stores, user())
    await stores.users.rehash(anna.user_id, old="hash", new="better")
    await stores.users.rehash(anna.user_id, old="hash", new="late")
    found = await stores.users.get(anna.user_id)
    assert found is not None
    assert (found.password_hash, found.epoch) == ("better", 1)


async def test_the_sealed_profile_is_replaced(stores: AuthStores) -> None:
    anna = await add(stores, user())
    changed = await stores.users.set_sealed(anna.user_id, b"new", [event("changed")], expected=anna.sealed)
    assert changed == msgspec.structs.replace(anna, sealed=b"new")
    assert await stores.users.set_sealed("nobody", b"new", [event("changed")], expected=b"") is None
    assert await stores.users.set_sealed(anna.user_id, b"late", [event("changed")], expected=anna.sealed) is None
    assert (await kinds(stores)).count("changed") == 1


# ---- the choke point


async def test_a_cut_raises_the_epoch_ends_sessions_and_is_in_the_feed(stores: AuthStores) -> None:
    anna = await add(stores, user())
    ben = await add(stores, user("ben"))
    for owner, session_id in ((anna, "s1"), (anna, "s2"), (ben, "s3")):
        await open_session(stores, session(owner, session_id))
    await stores.mfa.challenge(Challenge(token_hash=b"h", tenant_id="t1", user_id=anna.user_id, expires_us=T0 * 2), [])
    cut = Cut(tenant_id="t1", user_id=anna.user_id, reason=Reason.PASSWORD, keep_session="s1", password_hash="new",
              revocation=revocation("subject", subject=anna.user_id, session_id="s1"),
              expected_hash="hash")  # fmt: skip
    changed = await stores.users.cut(cut, [event("cut")])
    assert changed == msgspec.structs.replace(anna, password_hash="new", epoch=2)
    assert [s.session_id for s in await stores.sessions.live(anna.user_id, T0, after="", limit=9)] == ["s1"]
    assert [s.session_id for s in await stores.sessions.live(ben.user_id, T0, after="", limit=9)] == ["s3"]
    (entry,) = await stores.revocations.read(0, 10)
    assert (entry.kind, entry.subject, entry.session_id, entry.epoch) == ("subject", anna.user_id, "s1", 2)
    assert await stores.mfa.attempt(b"h", now_us=T0, most=5) is None, "a login half done does not survive"
    assert not await open_session(stores, session(anna, "s4")), "nor one decided before"
    assert await stores.users.cut(cut, [event("cut")]) is None, "the expected hash is gone"
    assert (await kinds(stores)).count("cut") == 1


async def test_a_cut_that_only_has_to_be_noticed_leaves_sessions(stores: AuthStores) -> None:
    anna = await add(stores, user())
    await open_session(stores, session(anna))
    cut = Cut(tenant_id="t1", user_id=anna.user_id, reason=Reason.ROLE, ends_sessions=False, role=Role.ADMIN,
              revocation=revocation("role", subject=anna.user_id))  # fmt: skip
    assert await stores.users.cut(cut, []) == msgspec.structs.replace(anna, role=Role.ADMIN, epoch=2)
    found = await stores.sessions.get("s1")
    assert found is not None
    assert (found[0].ended_us, found[0].epoch, found[1].role) == (0, 1, Role.ADMIN)


async def test_a_cut_decided_on_another_role_is_refused(stores: AuthStores) -> None:
    await add(stores, user())
    cut = Cut(tenant_id="t1", user_id="u-t1-anna", reason=Reason.ROLE, revocation=revocation("role"), role=Role.AUDITOR)
    assert await stores.users.cut(msgspec.structs.replace(cut, expected_role=Role.ADMIN), [event()]) is None
    changed = await stores.users.cut(msgspec.structs.replace(cut, expected_role=Role.MEMBER), [event()])
    assert changed is not None
    assert changed.role is Role.AUDITOR


async def test_cuts_stay_in_the_tenant(stores: AuthStores) -> None:
    anna = await add(stores, user())
    cut = Cut(tenant_id="t2", user_id=anna.user_id, reason=Reason.DISABLED, revocation=revocation("subject"))
    assert await stores.users.cut(cut, [event("cut")]) is None
    assert await stores.revocations.newest() == 0


async def test_the_last_owner_stays_even_when_two_go_at_once(stores: AuthStores) -> None:
    owners = [await add(stores, user(name, role=Role.OWNER)) for name in ("anna", "ben")]
    cuts = [
        Cut(tenant_id="t1", user_id=owners[0].user_id, reason=Reason.ROLE, revocation=revocation("role"),
            role=Role.MEMBER),
        Cut(tenant_id="t1", user_id=owners[1].user_id, reason=Reason.DISABLED, revocation=revocation("subject"),
            status="disabled"),
    ]  # fmt: skip
    answers = await asyncio.gather(*(stores.users.cut(c, [event("cut")]) for c in cuts), return_exceptions=True)
    assert sum(isinstance(a, LastOwner) for a in answers) == 1
    assert await stores.revocations.newest() == 1
    assert (await kinds(stores)).count("cut") == 1


# ---- sessions


async def test_a_session_comes_back_as_it_went(stores: AuthStores) -> None:
    anna = await add(stores, user())
    await stores.attempts.fail([counted(b"k", 1)], now_us=T0, events=[])
    assert await open_session(stores, session(anna), forgive=[b"k"])
    found = await stores.sessions.get("s1")
    assert found is not None
    assert found[:2] == (session(anna), anna)
    assert found[2].slug == "one"
    assert await stores.attempts.locked_until([b"k"]) == [0]
    assert await stores.sessions.get("s2") is None


async def test_past_the_limit_the_one_unused_for_longest_ends(stores: AuthStores) -> None:
    anna = await add(stores, user())
    for i in range(3):
        await open_session(stores, session(anna, f"s{i}", seen_us=T0 + i), most=3)
    await stores.sessions.touch([("s0", T0 + 50), ("nobody", T0)])
    await stores.sessions.touch([("s0", T0 + 40)])
    await open_session(stores, session(anna, "s9", seen_us=T0 + 99), most=3)
    live = await stores.sessions.live(anna.user_id, T0, after="", limit=9)
    assert [(s.session_id, s.seen_us - T0) for s in live] == [("s9", 99), ("s2", 2), ("s0", 50)]
    assert [r.session_id for r in await stores.revocations.read(0, 9)] == ["s1"]
    assert "ended s1" in await kinds(stores)


async def test_a_place_is_known_while_a_session_opened_there_lives(stores: AuthStores) -> None:
    anna = await add(stores, user())
    await open_session(stores, session(anna), place=b"home")
    await open_session(stores, session(anna, "s2", expires_us=T0 + 1), place=b"train")
    known = [await stores.sessions.is_open_at(place, T0 + 1) for place in (b"home", b"train", b"")]
    assert known == [True, False, False]
    await stores.sessions.end("s1", anna.user_id, revocation(session_id="s1"), [])
    assert not await stores.sessions.is_open_at(b"home", T0 + 1)


async def test_sessions_are_listed_in_pages_newest_first(stores: AuthStores) -> None:
    anna = await add(stores, user())
    for i in range(5):
        await open_session(stores, session(anna, f"s{i}"))
    await open_session(stores, session(anna, "s7", expires_us=T0 + 1))
    first = await stores.sessions.live(anna.user_id, T0 + 1, after="", limit=3)
    rest = await stores.sessions.live(anna.user_id, T0 + 1, after=first[-1].session_id, limit=3)
    assert [s.session_id for s in (*first, *rest)] == ["s4", "s3", "s2", "s1", "s0"]


async def test_a_session_ends_once_and_only_by_its_user(stores: AuthStores) -> None:
    anna = await add(stores, user())
    await open_session(stores, session(anna))
    assert not await stores.sessions.end("s1", "somebody", revocation(), [event("end")])
    answers = await asyncio.gather(
        *(stores.sessions.end("s1", anna.user_id, revocation(session_id="s1"), [event("end")]) for _ in range(5))
    )
    assert answers.count(True) == 1
    assert await stores.revocations.newest() == 1
    assert (await kinds(stores)).count("end") == 1
    found = await stores.sessions.get("s1")
    assert found is not None
    assert found[0].ended_us == T0 + 5


async def rotate_by(stores: AuthStores, rotation: Rotation, now_us: int = T0 + 9) -> Any:
    return await stores.sessions.rotate(
        "s1",
        lambda _: rotation,
        now_us=now_us,
        expires_us=T0 + 2_000 * S,
        sealed_origin=b"here",
        reused=revocation(session_id="s1", reason=Reason.REUSED),
        events=[event("rotated")],
        reused_events=[event("reused")],
    )


async def test_rotation_stores_the_family(stores: AuthStores) -> None:
    anna = await add(stores, user())
    await open_session(stores, session(anna))
    uses = (RefreshUse(1, T0 + 9),)
    judged = await rotate_by(stores, Rotation(Verdict.ROTATE, 2, uses))
    assert judged == (session(anna), Rotation(Verdict.ROTATE, 2, uses))
    await rotate_by(stores, Rotation(Verdict.REPEAT, 2, uses), T0 + 3)
    found = await stores.sessions.get("s1")
    assert found is not None
    assert found[0] == session(anna, refresh_head=2, refresh_uses=uses, seen_us=T0 + 9, expires_us=T0 + 2_000 * S,
                               sealed_origin=b"here")  # fmt: skip
    assert (await kinds(stores)).count("rotated") == 1
    await rotate_by(stores, Rotation(Verdict.REUSED, 2, uses))
    assert [r.reason for r in await stores.revocations.read(0, 9)] == ["refresh_reused"]
    assert await rotate_by(stores, Rotation(Verdict.ROTATE, 3, uses)) is None, "ended"
    assert (await kinds(stores)).count("reused") == 1


async def test_rotation_asks_nobody_about_what_is_over(stores: AuthStores) -> None:
    anna = await add(stores, user())
    assert await rotate_by(stores, Rotation(Verdict.ROTATE, 2, ())) is None
    await open_session(stores, session(anna))
    assert await rotate_by(stores, Rotation(Verdict.ROTATE, 2, ()), T0 + 1_000 * S) is None, "expired"
    cut = Cut(tenant_id="t1", user_id=anna.user_id, reason=Reason.DISABLED, revocation=revocation("subject"),
              status="disabled", ends_sessions=False)  # fmt: skip
    await stores.users.cut(cut, [])
    assert await rotate_by(stores, Rotation(Verdict.ROTATE, 2, ())) is None, "disabled"
    assert not await open_session(stores, session(msgspec.structs.replace(anna, epoch=2), "s2")), "no new one either"


async def test_a_fresh_proof_is_noted_in_a_live_session_only(stores: AuthStores) -> None:
    anna = await add(stores, user())
    await open_session(stores, session(anna))
    proved = await stores.sessions.prove("s1", auth_us=T0 + 7, amr=("pwd",), forgive=[], events=[event("proof")])
    assert proved == session(anna, auth_us=T0 + 7, amr=("pwd",))
    await stores.sessions.end("s1", anna.user_id, revocation(), [])
    assert await stores.sessions.prove("s1", auth_us=T0, amr=(), forgive=[], events=[event("proof")]) is None
    assert (await kinds(stores)).count("proof") == 1


# ---- the feed


async def test_the_feed_is_numbered_without_holes_and_wakes(stores: AuthStores) -> None:
    waiting = asyncio.create_task(stores.revocations.wait(0, 5.0))
    await asyncio.sleep(0)
    numbers = await asyncio.gather(
        *(stores.revocations.append(revocation("token", token_id=f"j{i}"), [event("revoked")]) for i in range(30))
    )
    assert await asyncio.wait_for(waiting, 1.0)
    assert sorted(numbers) == list(range(1, 31))
    entries = [*await stores.revocations.read(0, 20), *await stores.revocations.read(20, 20)]
    assert [e.number for e in entries] == list(range(1, 31))
    assert await stores.revocations.newest() == 30
    assert not await stores.revocations.wait(30, 0.01)
    assert await stores.revocations.has_token("j7")
    assert not await stores.revocations.has_token("j77")
    assert not await stores.revocations.has_token("")


async def test_numbers_are_never_given_twice_after_a_sweep_and_a_restart(family: str, tmp_path: Any) -> None:
    async with open_auth_stores(family, tmp_path) as stores:
        await stores.revocations.append(revocation("token", token_id="a"), [])
        await stores.revocations.append(revocation("token", token_id="b", expires_at_s=0), [])
        await stores.revocations.append(revocation("token", token_id="c"), [])
        assert await stores.upkeep.sweep(now_us=T0 + 101 * S, over_before_us=0, attempts_before_us=0) == 1
        assert [e.token_id for e in await stores.revocations.read(0, 9)] == ["b", "c"], "0 is for good, and the newest"
        assert await stores.revocations.holds(3, change_id := (await stores.revocations.read(2, 1))[0].change_id)
        assert not await stores.revocations.holds(2, change_id)
    async with open_auth_stores(family, tmp_path) as stores:
        assert await stores.revocations.newest() == 3
        assert await stores.revocations.append(revocation("token", token_id="d"), []) == 4


# ---- failures and second factors


def counted(key: bytes, free: int, forget_s: int = 100) -> Counted:
    return Counted(key=key, free=free, base_s=2.0, cap_s=60.0, forget_s=forget_s)


async def test_failures_are_counted_per_key_and_forgotten(stores: AuthStores) -> None:
    a, b = counted(b"a", 3), counted(b"b", 9, forget_s=300)
    found = await asyncio.gather(*(stores.attempts.fail([a, b], now_us=T0, events=[event("f")]) for _ in range(5)))
    assert sorted(f[0].count for f in found) == [1, 2, 3, 4, 5]
    assert await stores.attempts.locked_until([b"a", b"b", b"c"]) == [T0 + 8 * S, 0, 0]
    assert (await kinds(stores)).count("f") == 5
    later = await stores.attempts.fail([a, b], now_us=T0 + 100 * S, events=[])
    assert [one.count for one in later] == [1, 6], "each in its own time"
    await stores.attempts.forgive([b"a"])
    assert await stores.attempts.locked_until([b"a"]) == [0]


async def test_a_challenge_counts_attempts_and_is_spent_once(stores: AuthStores) -> None:
    anna = await add(stores, user())
    challenge = Challenge(token_hash=b"h", tenant_id="t1", user_id=anna.user_id, expires_us=T0 + 10)
    await stores.mfa.challenge(challenge, [event("wanted")])
    attempts = await asyncio.gather(*(stores.mfa.attempt(b"h", now_us=T0, most=3) for _ in range(6)))
    assert sorted(a.attempts for a in attempts if a) == [1, 2, 3]
    assert await stores.mfa.waiting(b"h", now_us=T0, most=3) is None, "out of attempts"
    assert [await stores.mfa.spend(b"h"), await stores.mfa.spend(b"h")] == [True, False]
    await stores.mfa.challenge(challenge, [])
    assert [await stores.mfa.waiting(b"h", now_us=T0, most=1) for _ in range(2)] == [challenge] * 2, "looking is free"
    assert await stores.mfa.waiting(b"h", now_us=T0 + 10, most=3) is None, "expired"
    assert await stores.mfa.attempt(b"h", now_us=T0 + 10, most=3) is None, "expired"


async def test_a_time_step_is_used_once_and_never_an_older_one(stores: AuthStores) -> None:
    anna = await add(stores, user())
    assert not await stores.mfa.use_step(anna.user_id, 1), "nothing enrolled"
    await stores.mfa.enroll(anna.user_id, b"first", T0 + 1, [event("enrolled")])
    assert not await stores.mfa.use_step(anna.user_id, 1), "not confirmed"
    await stores.mfa.enroll(anna.user_id, b"second", T0 + 2, [])
    confirm = {"step": 100, "recovery": [b"c1", b"c2"], "events": [event("confirmed")]}
    assert not await stores.mfa.confirm(anna.user_id, pending_sealed=b"first", **confirm)
    assert await stores.mfa.confirm(anna.user_id, pending_sealed=b"second", **confirm)
    found = await stores.users.get(anna.user_id)
    assert found is not None
    assert found.mfa
    answers = await asyncio.gather(*(stores.mfa.use_step(anna.user_id, 101) for _ in range(10)))
    assert answers.count(True) == 1
    assert not await stores.mfa.use_step(anna.user_id, 100)
    assert await stores.mfa.use_step(anna.user_id, 102)
    record = await stores.mfa.totp(anna.user_id)
    assert record is not None
    assert (record.sealed_secret, record.last_step, record.pending_sealed) == (b"second", 102, None)


async def test_recovery_codes_work_once_each(stores: AuthStores) -> None:
    anna = await add(stores, user())
    await stores.mfa.enroll(anna.user_id, b"s", T0, [])
    await stores.mfa.confirm(anna.user_id, pending_sealed=b"s", step=1, recovery=[b"c1", b"c2"], events=[])
    answers = await asyncio.gather(*(stores.mfa.use_recovery(anna.user_id, b"c1", [event("used")]) for _ in range(10)))
    assert answers.count(True) == 1
    assert (await kinds(stores)).count("used") == 1
    assert not await stores.mfa.use_recovery("somebody", b"c2", [])
    kept = await stores.mfa.remove(anna.user_id, keeps_a_factor=True, events=[event("removed")])
    assert kept is Removal.LAST_FACTOR
    assert await stores.mfa.has_recovery(anna.user_id)
    assert (await kinds(stores)).count("removed") == 0
    for answer in (Removal.REMOVED, Removal.ABSENT):
        assert await stores.mfa.remove(anna.user_id, keeps_a_factor=False, events=[event("removed")]) is answer
    assert (await kinds(stores)).count("removed") == 1
    assert not await stores.mfa.use_recovery(anna.user_id, b"c2", [])
    found = await stores.users.get(anna.user_id)
    assert found is not None
    assert not found.mfa
    assert (await kinds(stores)).count("removed") == 1


# ---- keys, upkeep, restarts


async def test_a_secret_is_made_once(stores: AuthStores) -> None:
    made = await asyncio.gather(*(stores.keys.secret("index", lambda i=i: b"%d" % i) for i in range(5)))
    assert len(set(made)) == 1


async def test_signing_keys_are_replaced_and_all_sessions_end(stores: AuthStores) -> None:
    first = SigningKeyRecord(kid="k1", alg="EdDSA", state="signing", sealed_pem=b"p", created_us=T0)
    second = SigningKeyRecord(kid="k2", alg="EdDSA", state="signing", sealed_pem=b"q", created_us=T0 + 1)
    await stores.keys.put_signing_keys([first], [event("key")])
    retired = msgspec.structs.replace(first, state="retiring", verify_until_us=T0 + 9)
    await stores.keys.put_signing_keys([second, retired], [event("key")])
    assert await stores.keys.signing_keys() == [retired, second]
    anna = await add(stores, user())
    await open_session(stores, session(anna))
    assert await stores.keys.end_all_sessions(lambda t: revocation("tenant", tenant_id=t)) == 0, "no key was lost"
    await stores.keys.put_signing_keys([second], [event("all")], ends_sessions=True)
    assert await stores.keys.end_all_sessions(lambda t: revocation("tenant", tenant_id=t)) == 1
    assert await stores.keys.end_all_sessions(lambda t: revocation("tenant", tenant_id=t)) == 0, "once"
    found = await stores.sessions.get("s1")
    assert found is not None
    assert found[0].ended_us
    assert found[1].epoch == 2
    assert [e.kind for e in await stores.revocations.read(0, 9)] == ["tenant"]


async def test_the_sweep_takes_only_what_is_over(stores: AuthStores) -> None:
    anna = await add(stores, user())
    await open_session(stores, session(anna, "lives"))
    await open_session(stores, session(anna, "expired", expires_us=T0 + 1))
    await open_session(stores, session(anna, "ended"))
    await stores.sessions.end("ended", anna.user_id, revocation(session_id="ended"), [])
    await stores.mfa.challenge(Challenge(token_hash=b"h", tenant_id="t1", user_id=anna.user_id, expires_us=T0 + 1), [])
    await stores.attempts.fail([counted(b"a", 1)], now_us=T0, events=[])
    now = {"now_us": T0 + 10, "over_before_us": T0 + 10, "attempts_before_us": T0 + 10}
    assert await stores.upkeep.sweep(**now) == 4
    assert await stores.upkeep.sweep(**now) == 0
    assert [await stores.sessions.get(s) is not None for s in ("lives", "expired", "ended")] == [True, False, False]
    assert len(await stores.revocations.read(0, 9)) == 1
    await stores.upkeep.probe()


async def test_everything_is_there_after_a_restart(family: str, tmp_path: Any) -> None:
    async with open_auth_stores(family, tmp_path) as stores:
        await stores.tenants.add(TenantRecord(tenant_id="t1", slug="one", name="One", created_us=T0), [])
        anna = await add(stores, user())
        await open_session(stores, session(anna))
        await stores.sessions.end("s1", anna.user_id, revocation(session_id="s1"), [event("end")])
    async with open_auth_stores(family, tmp_path) as stores:
        found = await stores.sessions.get("s1")
        assert found is not None
        assert found[0] == session(anna, ended_us=T0 + 5)
        assert [e.session_id for e in await stores.revocations.read(0, 9)] == ["s1"]
        assert await kinds(stores) == ["member", "opened", "end"]
