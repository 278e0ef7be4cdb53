"""The revocation book against the plainest model there is: a list of all revocations, asked one by one."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from sealwire.boundary.model import VerifiedToken
from sealwire.boundary.revocation_book import NOTHING, RevocationBook
from sealwire.contracts.revocations import Revocation
from sealwire.kit.permission import Role
from sealwire.testing.clock import ManualClock

START_S = 1_767_225_600
REVOCATIONS = st.builds(
    lambda number, kind, tenant, subject, session, token, epoch, at_s: Revocation(
        number=number,
        change_id=str(number),
        kind=kind,
        tenant_id=tenant,
        subject=subject,
        session_id=session if kind in ("session", "subject") else "",
        token_id=token,
        epoch=epoch,
        at_us=at_s * 1_000_000,
        expires_at_s=START_S + 86_400,
    ),
    number=st.integers(1, 9),
    kind=st.sampled_from(["session", "subject", "role", "token", "tenant"]),
    tenant=st.sampled_from(["t", "u"]),
    subject=st.sampled_from(["anna", "otto"]),
    session=st.sampled_from(["", "s1", "s2"]),
    token=st.sampled_from(["j1", "j2"]),
    epoch=st.integers(0, 4),
    at_s=st.integers(START_S - 3, START_S + 3),
)
TOKENS = [
    VerifiedToken(
        tenant_id=tenant,
        subject=subject,
        session_id=session,
        token_id=token,
        role=Role.MEMBER,
        email="",
        kid="k",
        epoch=epoch,
        issued_at_s=START_S + (epoch - 2),
        expires_at_s=START_S + 600,
        auth_time_s=0,
        legacy=legacy,
    )
    for tenant in ("t", "u")
    for subject in ("anna", "otto")
    for session, token in (("s1", "j1"), ("s2", "j2"), ("s3", "j3"))
    for epoch in range(5)
    for legacy in (False, True)
]


def kills(revocation: Revocation, token: VerifiedToken) -> bool:
    """What contracts/revocations.py says of an entry, word for word."""
    same_tenant = revocation.tenant_id == token.tenant_id
    if revocation.kind == "session":
        return revocation.session_id == token.session_id
    if revocation.kind == "token":
        return revocation.token_id == token.token_id
    if revocation.kind == "tenant":
        return same_tenant and token.issued_at_s <= revocation.at_us // 1_000_000
    if revocation.kind == "subject" and same_tenant and revocation.subject == token.subject:
        kept = revocation.session_id != "" and revocation.session_id == token.session_id
        before = token.issued_at_s <= revocation.at_us // 1_000_000 if token.legacy else token.epoch < revocation.epoch
        return before and not kept
    return False


@settings(max_examples=300, deadline=None)
@given(revocations=st.lists(REVOCATIONS, max_size=12))
def test_a_token_is_dead_exactly_when_some_revocation_kills_it(revocations: list[Revocation]) -> None:
    book = RevocationBook(clock=ManualClock())
    for i, revocation in enumerate(revocations):
        version = book.version
        changed = book.apply(revocation)
        assert changed == (book.version > version)
        assert not book.apply(revocation), "applying it again changes nothing"
        seen = revocations[: i + 1]
        for token in TOKENS[:: 1 if i == len(revocations) - 1 else 7]:
            assert bool(book.against(token)) == any(kills(r, token) for r in seen)
    for tenant in ("t", "u"):
        for subject in ("anna", "otto"):
            about = [
                r.number
                for r in revocations
                if r.tenant_id == tenant
                and (r.kind == "tenant" or (r.kind in ("subject", "role") and r.subject == subject))
            ]
            assert book.latest(tenant, subject) == max(about, default=NOTHING)


@settings(max_examples=100, deadline=None)
@given(revocations=st.lists(REVOCATIONS, max_size=12), order=st.randoms(use_true_random=False))
def test_neither_order_nor_a_copy_changes_what_is_dead(revocations: list[Revocation], order: object) -> None:
    one, other, copy = (RevocationBook(clock=ManualClock()) for _ in range(3))
    shuffled = list(revocations)
    order.shuffle(shuffled)  # type: ignore[attr-defined]  # a Random
    for revocation in revocations:
        one.apply(revocation)
    for revocation in shuffled:
        other.apply(revocation)
    for revocation in one:
        copy.apply(revocation)
    for token in TOKENS:
        assert bool(one.against(token)) == bool(other.against(token)) == bool(copy.against(token))


def test_entries_go_with_time_that_passed_not_with_a_clock_that_steps() -> None:
    clock = ManualClock()
    book = RevocationBook(clock=clock)
    now_s = clock.now_us() // 1_000_000
    book.apply(
        Revocation(
            number=1, change_id="1", kind="session", tenant_id="t", session_id="s1",
            at_us=clock.now_us(), expires_at_s=now_s + 600,
        )
    )  # fmt: skip
    clock.step_wall(86_400)
    assert book.prune() == 0
    clock.step_wall(-2 * 86_400)
    clock.advance(600)
    assert book.prune() == 0, "a minute for clocks that differ"
    clock.advance(61)
    assert (book.prune(), len(book)) == (1, 0)
