"""Passwords: which are refused and why, and hashing with bounded, equal work."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealwire.kit.problem import Unavailable
from sealwire.services.auth.breached import BreachedFile, breached_in
from sealwire.services.auth.config import AuthConfig
from sealwire.services.auth.known_passwords import DIGEST_BYTES, FILE, KnownPasswords
from sealwire.services.auth.password_rules import PasswordRules
from sealwire.services.auth.passwords import Check, Costs, PasswordHasher
from sealwire.services.auth.weak_words import WeakWords, canonical

ROOT = Path(__file__).resolve().parents[2]
CHEAP = Costs(memory_kib=64, passes=1)
RULES = PasswordRules()
WORDS = WeakWords()
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
        ("correct horse battery", "tried first"),
        ("ManchesterUnited", "tried first"),
        ("elephant2024!", "tried first"),
        ("5t3ph4n13.Schmidt", "tried first"),
        ("Barcelona-1899", "tried first"),
        ("hamburg040!!", "tried first"),
        ("q1w2e3r4t5y6", "row of keys"),
        ("1122334455ab", "row of keys"),
        ("147258369147!", "row of keys"),
        ("!QAZ@WSX#EDC", "row of keys"),
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
        "elephant martini notebook",
        "hamburg-violet-elephant-7",
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


def test_thousands_of_words_cost_little_and_are_read_when_needed() -> None:
    tracemalloc.start()
    try:
        rules = PasswordRules()
        at_start, _ = tracemalloc.get_traced_memory()
        rules.weakness("kettle walrus tin")
        judged, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert at_start < 200_000, "bytes before the first password"
    assert judged < 1_500_000
    assert len(WeakWords()) > 2_000


@pytest.mark.parametrize(
    "password",
    [
        "rjycnfynby", "ghbdtnrfrltkf", "3rjs1la7qe", "sojdlg123aljg", "telecaster", "serendipity", "kingfisher",
        "Serendipity", "s3rendipity", "kingfisher2026!", "professional", "sonnenschein",
        "schokolade", "forgetmenot", "stratocaster1", "afghanistan", "moonshine1",
    ],
)  # fmt: skip
def test_what_was_found_in_breaches_is_refused(password: str) -> None:
    without = PasswordRules(known=None)
    assert "tried first" in (RULES.weakness(password) or "")
    assert without.weakness(password) is None, "no word and no row: the file knows it"


def test_the_file_of_digests_is_what_its_program_makes(tmp_path: Path) -> None:
    """As described, from a list in order; nothing readable is in it, and what other rules refuse is not."""
    spec = importlib.util.spec_from_file_location("maker", ROOT / "scripts" / "known_passwords.py")
    assert spec is not None
    assert spec.loader is not None
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    path = tmp_path / "known.bin"
    listed = maker.fitting(["short", "Granite Otter Plinth77", "qwertyuiop", "walrus kettle tin", "x" * 2_000])
    assert listed == ["Granite Otter Plinth77", "qwertyuiop", "walrus kettle tin"]
    maker.make(listed, path)
    rules = PasswordRules(known=KnownPasswords(path))
    for password in (
        "granite otter plinth",
        "gr4n1te otter plinth 1998!".replace(" 1998", "1998"),
        listed[0],
        listed[2],
    ):
        assert "tried first" in (rules.weakness(password) or ""), password
    assert rules.weakness("granite otter plinths of tin") is None
    assert len(KnownPasswords(path)) == 3, "two passwords and a stem"
    assert b"granite" not in path.read_bytes()


def test_without_its_whole_file_of_digests_nothing_starts(tmp_path: Path) -> None:
    """Not the first person to register is to find out that an installation is incomplete."""
    missing, empty, cut_off = (tmp_path / name for name in ("missing.bin", "empty.bin", "cut-off.bin"))
    empty.touch()
    cut_off.write_bytes(FILE.read_bytes()[:1_001])
    for path in (missing, empty, cut_off):
        with pytest.raises(ValueError, match="known passwords"):
            PasswordRules(known=KnownPasswords(path))


def test_the_file_that_is_shipped_is_sorted_and_whole() -> None:
    content = FILE.read_bytes()
    digests = [content[at : at + DIGEST_BYTES] for at in range(0, len(content), DIGEST_BYTES)]
    assert digests == sorted(set(digests))
    assert len(digests) == len(KnownPasswords()) > 80_000
    assert len(content) % DIGEST_BYTES == 0


@given(st.text(max_size=80))
def test_what_is_left_of_a_text_is_part_of_it_and_spelling_changes_nothing(text: str) -> None:
    folded = text.casefold()
    left, phrase = WORDS.take_out(folded)
    assert len(left) <= len(folded)
    assert phrase % 2 == 0
    assert WORDS.take_out(canonical(folded))[1] == phrase
    assert WORDS.take_out("p@55w0rd")[0] == WORDS.take_out("password")[0] == ""


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


# ---- a list of the machine's own


def sha1(password: str) -> str:
    return hashlib.sha1(password.encode()).hexdigest().upper()


STOLEN = [f"granite otter plinth {number}" for number in range(500)]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("count", ["", ":42"])
def test_a_sorted_file_of_hashes_is_found_in_from_first_to_last(tmp_path: Path, end: str, count: str) -> None:
    path = tmp_path / "hashes.txt"
    path.write_bytes((end.join(f"{line}{count}" for line in sorted(map(sha1, STOLEN))) + end).encode())
    rules = PasswordRules(BreachedFile(path))
    for password in STOLEN:
        assert "stolen" in (rules.weakness(password) or ""), password
    for password in ("granite otter plinth", "granite otter plinth 500", "granite otter plinth 1x"):
        assert rules.weakness(password) is None


def test_a_plain_list_knows_its_words_whatever_their_case(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("granite otter plinth\n\nfür elise im garten\n")
    rules = PasswordRules(BreachedFile(path))
    for password in ("granite otter plinth", "Granite Otter Plinth", "fu\u0308r elise im garten"):
        assert "stolen" in (rules.weakness(password) or ""), password
    assert rules.weakness("granite otter plinth 2") is None


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "empty"),
        ("\n".join(sorted(map(sha1, STOLEN), reverse=True)).encode(), "not sorted"),
        ("\n".join(sorted(map(sha1, STOLEN))[:250] + STOLEN).encode(), "no upper-case SHA-1"),
    ],
)
def test_a_file_that_would_find_nothing_is_refused_at_the_start(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(content)
    for wrong in (path, tmp_path / "none.txt"):
        config = AuthConfig(breached_passwords=str(wrong))
        with pytest.raises(ValueError, match=r"auth\.breached_passwords") as error:
            breached_in(config)
        assert told in str(error.value) or wrong != path
    assert breached_in(AuthConfig()) is None


def test_length_is_of_what_is_hashed() -> None:
    """Fourteen code points that are seven letters once they are normalised are seven."""
    assert PasswordRules().weakness("a\u0300e\u0301i\u0302o\u0303u\u0308n\u0303y\u0301") is not None
    assert PasswordRules().weakness("a\u0300 heron e\u0301 otters") is None
