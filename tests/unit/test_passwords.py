"""Passwords: which are refused and why, and hashing with bounded, equal work."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealwire.kit.problem import Unavailable
from sealwire.services.auth.password_rules import PasswordRules
from sealwire.services.auth.passwords import Check, Costs, PasswordHasher

CHEAP = Costs(memory_kib=64, passes=1)
RULES = PasswordRules()
ABOUT = ("jane.doe@clinic.example", "Jane Q. Doe", "clinic")


@pytest.fixture
def hasher() -> Iterator[PasswordHasher]:
    made = PasswordHasher(costs=CHEAP)
    yield made
    made.stop()


@pytest.mark.parametrize(
    ("password", "word"),
    [
        ("Sh0rt!x", "at least 10"),
        ("x" * 1_025, "at most 1024"),
        ("aaaaaaaaaaaa", "different"),
        ("abababababab", "different"),
        ("abcdeabcdeabcde", "repeats"),
        ("Password123!", "tried first"),
        ("P@ssw0rd2024!", "tried first"),
        ("p455w0rd12345", "tried first"),
        ("letmein!2023", "tried first"),
        ("Summer2026!!", "tried first"),
        ("iloveyouforever", "tried first"),
        ("1234567890", "row of keys"),
        ("0987654321xx", "row of keys"),
        ("qwertyuiop", "tried first"),
        ("p0iuytrewq77", "row of keys"),
        ("asdfghjkl;'", "tried first"),
        ("abcdefghijkl", "row of keys"),
        ("1qaz2wsx3edc", "row of keys"),
        ("correcthorsebatterystaple", "tried first"),
        ("jane.doe@clinic.example", "name"),
        ("JaneDoe2026!", "name"),
        ("doejane1985", "name"),
        ("clinic-jane1", "name"),
    ],
)
def test_weak_passwords_are_refused_with_a_reason(password: str, word: str) -> None:
    reason = RULES.weakness(password, about=ABOUT)
    assert reason is not None
    assert word in reason
    assert password not in reason


@pytest.mark.parametrize(
    "password",
    [
        "kettle-walrus-9 tin",
        "Zu7#kPq9!xv",
        "ein Boot im Nebel",
        "пароль не для всех",
        "千里の道も一歩からはじまる",
        "tr0ub4dor&3-harbour",
        "x7Kp9qLmW2",
        "a" * 40 + "kettle walrus tin harbour",
        "".join(chr(33 + i % 90) for i in range(1_024)),
    ],
)
def test_good_passwords_are_accepted(password: str) -> None:
    assert RULES.weakness(password, about=ABOUT) is None


@given(st.text(max_size=200), st.tuples(st.text(max_size=30), st.text(max_size=30)))
def test_any_text_is_judged(password: str, about: tuple[str, str]) -> None:
    RULES.weakness(password, about=about)


async def test_hash_and_check(hasher: PasswordHasher) -> None:
    stored = await hasher.hash("kettle walrus")
    assert stored.startswith("$argon2id$v=19$m=64,t=1,p=1$")
    assert stored != await hasher.hash("kettle walrus"), "salted"
    assert await hasher.check(stored, "kettle walrus") == Check(True, False)
    assert await hasher.check(stored, "kettle walru") == Check(False, False)
    assert await hasher.check("no hash at all", "kettle walrus") == Check(False, False)


async def test_the_defaults_are_owasps() -> None:
    hasher = PasswordHasher()
    assert (await hasher.hash("kettle walrus")).startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    hasher.stop()


async def test_one_password_from_two_keyboards(hasher: PasswordHasher) -> None:
    composed, decomposed = "caf\u00e9 walrus", "cafe\u0301 walrus"
    assert (await hasher.check(await hasher.hash(composed), decomposed)).holds


async def test_unknown_people_cost_the_same_work(hasher: PasswordHasher) -> None:
    stored = await hasher.hash("kettle walrus")
    before = hasher.work_done
    for known in (stored, None):
        assert not (await hasher.check(known, "wrong")).holds
    assert hasher.work_done == before + 2
    assert not (await hasher.check(None, "no one has this password")).holds


async def test_risen_parameters_ask_for_a_rehash(hasher: PasswordHasher) -> None:
    dearer = PasswordHasher(costs=Costs(memory_kib=128, passes=1))
    assert await dearer.check(await hasher.hash("kettle walrus"), "kettle walrus") == Check(True, True)
    dearer.stop()


async def test_the_queue_is_bounded() -> None:
    hasher = PasswordHasher(costs=CHEAP, threads=1, max_waiting=3)
    answers = await asyncio.gather(*(hasher.hash("kettle walrus") for _ in range(10)), return_exceptions=True)
    assert sum(isinstance(answer, Unavailable) for answer in answers) == 6
    assert (await hasher.hash("kettle walrus")).startswith("$argon2id$"), "and recovers"
    hasher.stop()
