"""A token that is taken away, refuses, hangs, or loses its worker: told clearly, and mended without a restart."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from sealwire.adapters.hsm import worker
from sealwire.adapters.hsm.pin import PinSource, PinUnusable
from sealwire.adapters.hsm.pkcs11 import Pkcs11KeyProvider, TokenOut
from sealwire.kit.clock import SystemClock
from sealwire.services.crypto.providers import KekUnusable, WrapRefused
from sealwire.testing.softhsm import KEY, LABEL, PIN, FaultyToken, SoftHsm, library

pytestmark = pytest.mark.skipif(library() is None, reason="SoftHSM2 is not installed (Debian: softhsm2)")
DEADLINE_S = 60.0
COMPILER = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler for the library that fails")


@pytest.fixture
def hsm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SoftHsm:
    monkeypatch.setenv("SOFTHSM2_CONF", "")
    return SoftHsm(tmp_path / "hsm")


@pytest.fixture
async def opener(hsm: SoftHsm, tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Pkcs11KeyProvider]]]:
    opened: list[Pkcs11KeyProvider] = []

    async def open_provider(*, create: bool = True, **changes: object) -> Pkcs11KeyProvider:
        provider = await Pkcs11KeyProvider.open(
            hsm.place(**changes), create=create, refused_pin=tmp_path / "pin-refused", clock=SystemClock()
        )
        opened.append(provider)
        return provider

    yield open_provider
    for provider in opened:
        provider.close()


@pytest.fixture
async def provider(opener) -> Pkcs11KeyProvider:
    return await opener()


async def gone(pid: int) -> bool:
    """Tell whether a process ends and is reaped; it is seen off behind everybody's back."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        await asyncio.sleep(0.01)
    return False


async def until(works: Callable[[], Awaitable[object]]) -> None:
    """Wait until it works again: what an installation does by asking now and then."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            await works()
        except KekUnusable:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.05)
        else:
            return


def seen_from_outside(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes() + Path(f"/proc/{pid}/cmdline").read_bytes()


def run_alone(hsm: SoftHsm, program: str) -> str:
    """Run a program with the library in a process of its own: one process sees a token's folder once only."""
    head = f"import pkcs11\nfrom pkcs11 import *\nlib = pkcs11.lib({hsm.module!r})\n"
    head += f"token = lib.get_token(token_label={LABEL!r})\n"
    done = subprocess.run([sys.executable, "-c", head + program], capture_output=True, text=True, check=True)
    return done.stdout


async def test_the_key_is_made_in_the_token_and_can_not_leave_it(hsm: SoftHsm, provider: Pkcs11KeyProvider) -> None:
    told = run_alone(
        hsm,
        f"""
with token.open(user_pin={PIN!r}) as session:
    (key,) = session.get_objects({{Attribute.LABEL: {KEY!r}}})
    A = Attribute
    print(key[A.LOCAL], key[A.SENSITIVE], key[A.ALWAYS_SENSITIVE], key[A.EXTRACTABLE], key[A.NEVER_EXTRACTABLE])
    print(key[A.PRIVATE], key[A.WRAP], key[A.UNWRAP], key[A.DERIVE], key[A.VALUE_LEN])
    try:
        key[A.VALUE]
    except pkcs11.exceptions.AttributeSensitive:
        print("not shown")
""",
    )
    assert told.split("\n")[:3] == ["True True True False True", "True False False False 32", "not shown"]


async def test_a_killed_worker_is_replaced_under_the_callers_feet(provider: Pkcs11KeyProvider) -> None:
    wrapped = await provider.wrap(b"k" * 32, b"here")
    first = provider.worker_pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    found = await asyncio.gather(*(provider.unwrap(wrapped, b"here") for _ in range(20)))
    assert {bytes(key) for key in found} == {b"k" * 32}
    assert provider.worker_pid not in (None, first)


async def test_the_worker_ends_with_its_provider(provider: Pkcs11KeyProvider) -> None:
    pid = provider.worker_pid
    assert pid is not None
    assert PIN.encode() not in seen_from_outside(pid), "the PIN goes over the socket only"
    provider.close()
    assert await gone(pid)
    with pytest.raises(TokenOut, match="closed"):
        await provider.check()


async def test_a_token_taken_away_is_told_and_works_when_it_is_back(
    hsm: SoftHsm, provider: Pkcs11KeyProvider, caplog: pytest.LogCaptureFixture
) -> None:
    wrapped = await provider.wrap(b"k" * 32, b"here")
    hsm.remove()
    caplog.set_level(logging.DEBUG)
    for call in (lambda: provider.unwrap(wrapped, b"here"), provider.check, lambda: provider.wrap(b"k" * 32, b"x")):
        with pytest.raises(TokenOut, match=r"no token|does not start|does not answer"):
            await call()
    started = time.monotonic()
    for _ in range(200):
        with pytest.raises(TokenOut):
            await provider.check()
    assert time.monotonic() - started < 30, "an outage is answered at once, not with a process each"
    hsm.insert()
    await until(provider.check)
    assert await provider.unwrap(wrapped, b"here") == b"k" * 32
    told = [record.getMessage() for record in caplog.records]
    assert sum("is out" in line for line in told) == 1, told
    assert sum("is back" in line for line in told) == 1
    assert PIN not in caplog.text


async def test_a_wrong_pin_is_tried_once_and_a_right_one_needs_no_restart(
    hsm: SoftHsm, provider: Pkcs11KeyProvider, opener, caplog: pytest.LogCaptureFixture
) -> None:
    wrapped = await provider.wrap(b"k" * 32, b"here")
    hsm.set_pin_file("0000-wrong")
    assert provider.worker_pid is not None
    os.kill(provider.worker_pid, signal.SIGKILL)
    with pytest.raises(PinUnusable, match="refuses the PIN"):
        await provider.unwrap(wrapped, b"here")
    told = await refusal(provider)
    assert "isn't tried again" in told
    with pytest.raises(PinUnusable, match="isn't tried again"):  # nor by another start
        await opener()
    marker = (hsm.folder.parent / "pin-refused").read_text()
    assert "0000-wrong" not in marker
    hsm.set_pin_file(PIN)
    await until(provider.check)
    assert await provider.unwrap(wrapped, b"here") == b"k" * 32
    assert not (hsm.folder.parent / "pin-refused").exists()
    assert "0000-wrong" not in caplog.text + told
    assert PIN not in caplog.text


async def refusal(provider: Pkcs11KeyProvider) -> str:
    """Ask until the token is no longer quoted, but spared: the first answers repeat what it said."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        with pytest.raises(PinUnusable) as told:
            await provider.check()
        if "refuses the PIN" not in str(told.value) or time.monotonic() > deadline:
            return str(told.value)
        await asyncio.sleep(0.02)


async def test_a_pin_in_the_environment_is_not_tried_twice_either(
    hsm: SoftHsm, opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN_PIN", "0000-wrong")
    for words in ("refuses the PIN", "isn't tried again: correct it and remove"):
        with pytest.raises(PinUnusable, match=words):
            await opener(pin="env:TOKEN_PIN")
    monkeypatch.setenv("TOKEN_PIN", PIN)
    (tmp_path / "pin-refused").unlink()
    provider = await opener(pin="env:TOKEN_PIN")
    await provider.check()
    assert PIN.encode() not in seen_from_outside(provider.worker_pid)
    monkeypatch.delenv("TOKEN_PIN")
    with pytest.raises(PinUnusable, match="no PIN in TOKEN_PIN"):
        await opener(pin="env:TOKEN_PIN")


async def test_what_else_can_be_wrong_is_named(hsm: SoftHsm, opener, tmp_path: Path) -> None:
    with pytest.raises(TokenOut, match=r"no-such-library.so"):
        await opener(module=str(tmp_path / "no-such-library.so"))
    with pytest.raises(TokenOut, match=r"invalid ELF header|file too short"):
        await opener(module=str(hsm.pin))
    with pytest.raises(TokenOut, match="no token, or not just one, labelled 'other'"):
        await opener(token="other")
    with pytest.raises(TokenOut, match="holds no AES keys labelled 'absent'"):
        await opener(key="absent", create=False)
    run_alone(
        hsm,
        f"""
with token.open(user_pin={PIN!r}, rw=True) as session:
    soft = {{Attribute.EXTRACTABLE: True, Attribute.SENSITIVE: False}}
    session.generate_key(KeyType.AES, 256, id=b"1", label="soft", store=True, template=soft)
    session.generate_key(KeyType.AES, 128, id=b"1", label="short", store=True)
    session.generate_key(KeyType.AES, 256, id=b"2", label="twice", store=True)
    session.generate_key(KeyType.AES, 256, id=b"3", label="twice", store=True)
""",
    )
    for label, words in {
        "soft": "could leave the token",
        "short": "no AES-256 key",
        "twice": "holds 2 AES keys",
    }.items():
        with pytest.raises(TokenOut, match=words):
            await opener(key=label)


@pytest.mark.parametrize("place", ["4711", "file:", "env:", "pin:4711"])
def test_a_pin_itself_is_no_setting_and_is_not_repeated(place: str) -> None:
    with pytest.raises(PinUnusable, match="says where the PIN is") as told:
        PinSource(place)
    assert "4711" not in str(told.value)


def test_a_pin_that_others_may_read_is_refused(hsm: SoftHsm) -> None:
    hsm.pin.chmod(0o640)
    with pytest.raises(PinUnusable, match="chmod 600"):
        PinSource(f"file:{hsm.pin}").read()
    hsm.pin.chmod(0o600)
    pin = PinSource(f"file:{hsm.pin}").read()
    assert pin.text == PIN
    assert PIN not in repr(pin) + pin.identity
    hsm.pin.write_text("\n")
    with pytest.raises(PinUnusable, match="empty"):
        PinSource(f"file:{hsm.pin}").read()
    assert stat.S_IMODE(hsm.pin.stat().st_mode) == 0o600
    with pytest.raises(PinUnusable, match="can't be opened"):
        PinSource(f"file:{hsm.pin}.absent").read()
    with pytest.raises(PinUnusable, match="no regular file"):
        PinSource(f"file:{hsm.folder}").read()


@pytest.fixture
def faulty(hsm: SoftHsm) -> FaultyToken:
    return hsm.faulty()


SESSION_HANDLE_INVALID, DEVICE_ERROR, DEVICE_REMOVED, USER_NOT_LOGGED_IN = 0xB3, 0x30, 0x32, 0x101
GENERAL_ERROR = 0x5


@COMPILER
@pytest.mark.parametrize("code", [SESSION_HANDLE_INVALID, DEVICE_ERROR, DEVICE_REMOVED, USER_NOT_LOGGED_IN])
async def test_a_lost_session_is_opened_again_unseen(hsm: SoftHsm, faulty: FaultyToken, opener, code: int) -> None:
    provider = await opener(module=faulty.module)
    wrapped = await provider.wrap(b"k" * 32, b"here")
    first = provider.worker_pid
    faulty.order(f"once {code:#x}")
    assert await provider.unwrap(wrapped, b"here") == b"k" * 32
    assert provider.worker_pid != first


@COMPILER
async def test_a_token_that_fails_all_the_time_is_out_and_no_key_is_called_wrong(faulty: FaultyToken, opener) -> None:
    provider = await opener(module=faulty.module)
    wrapped = await provider.wrap(b"k" * 32, b"here")
    for code in (GENERAL_ERROR, DEVICE_ERROR):  # the first is also what SoftHSM says to a wrong tag
        faulty.order(f"{code:#x}")
        with pytest.raises(TokenOut):
            await provider.unwrap(wrapped, b"here")
        faulty.relent()
        await until(provider.check)
        assert await provider.unwrap(wrapped, b"here") == b"k" * 32


async def answered(provider: Pkcs11KeyProvider) -> float:
    """Return how long it took to hear that the token is out, once the pause after the last time is over."""
    while True:
        started = time.monotonic()
        with pytest.raises(TokenOut) as told:
            await provider.check()
        if "come up" in str(told.value):
            return time.monotonic() - started
        await asyncio.sleep(0.02)


@COMPILER
async def test_a_library_that_crashes_or_hangs_takes_only_its_worker_along(faulty: FaultyToken, opener) -> None:
    provider = await opener(module=faulty.module, timeout_s=3)
    wrapped = await provider.wrap(b"k" * 32, b"here")
    for order, words in {"die": "died", "hang": "did not answer within 3 s"}.items():
        first = provider.worker_pid
        assert first is not None
        faulty.order(order)
        with pytest.raises(TokenOut, match=f"{words}|can't be used"):
            async with asyncio.timeout(DEADLINE_S):
                await provider.unwrap(wrapped, b"here")
        assert await gone(first)
        if order == "hang":  # a fresh worker hangs as well: nobody waits for its start longer than for an answer
            asked = asyncio.gather(*(answered(provider) for _ in range(20)))
            assert max(await asked) < 12, "10 s more than an answer are what a start may take"
        faulty.relent()
        await until(provider.check)
        assert await provider.unwrap(wrapped, b"here") == b"k" * 32


async def test_a_stopped_worker_holds_nobody_up(
    provider: Pkcs11KeyProvider, opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = await opener(timeout_s=3)
    wrapped = await patient.wrap(b"k" * 32, b"here")
    for one in (patient, provider):
        assert one.worker_pid is not None
        os.kill(one.worker_pid, signal.SIGSTOP)
    stopped, closed = patient.worker_pid, provider.worker_pid
    with pytest.raises(TokenOut, match="did not answer within 3 s"):
        await patient.unwrap(wrapped, b"here")
    await until(patient.check)
    assert await gone(stopped)
    monkeypatch.setattr(worker, "END_S", 2 * DEADLINE_S)  # what it is given to log out: nobody waits for that either
    started = time.monotonic()
    provider.close()
    assert time.monotonic() - started < DEADLINE_S
    os.kill(closed, signal.SIGKILL)
    assert await gone(closed)


async def test_a_worker_that_outlives_its_kill_holds_nobody_up(
    opener, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A process in state D can't be made at will: here it is a stopped one, and kills that don't reach it."""
    provider = await opener(timeout_s=3)
    wrapped = await provider.wrap(b"k" * 32, b"here")
    stuck = provider.worker_pid
    assert stuck is not None
    os.kill(stuck, signal.SIGSTOP)
    starts: list[object] = []
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **options: starts.append(args) or popen(*args, **options))
    with monkeypatch.context() as patch:
        patch.setattr(popen, "kill", lambda process: None)
        with pytest.raises(TokenOut, match="did not answer within 3 s"):
            await provider.unwrap(wrapped, b"here")
        told = f"process {stuck}, which held the token's session, was killed and does not end"
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            with pytest.raises(TokenOut) as out:
                await provider.check()
            if told in str(out.value):
                break
            await asyncio.sleep(0.02)
        assert told in str(out.value)
        assert not starts, "no second process that would hang as well"
    assert told in caplog.text
    os.kill(stuck, signal.SIGKILL)  # the driver lets it go
    await until(provider.check)
    assert await provider.unwrap(wrapped, b"here") == b"k" * 32
    assert len(starts) == 1


PIN_FINAL_TRY, PIN_LOCKED, AES_GCM = 0x20000, 0x40000, 0x1087


@COMPILER
@pytest.mark.parametrize(
    ("order", "words"),
    [
        (f"flags {PIN_FINAL_TRY:#x}", "one wrong PIN more locks the token"),
        (f"flags {PIN_LOCKED:#x}", "the token has locked its PIN"),
        (f"without {AES_GCM:#x}", "no CKM_AES_GCM"),
    ],
)
async def test_a_token_that_is_better_left_alone_is_not_logged_in_to(
    faulty: FaultyToken, opener, order: str, words: str
) -> None:
    provider = await opener(module=faulty.module)
    wrapped = await provider.wrap(b"k" * 32, b"here")
    before = faulty.logins
    assert before == 1
    faulty.order(order)
    assert provider.worker_pid is not None
    os.kill(provider.worker_pid, signal.SIGKILL)
    for _ in range(3):
        with pytest.raises(KekUnusable, match=words):
            await provider.unwrap(wrapped, b"here")
    assert faulty.logins == before, "the PIN was not tried"
    faulty.relent()
    await until(provider.check)
    assert await provider.unwrap(wrapped, b"here") == b"k" * 32


async def test_another_token_of_the_same_name_is_not_taken_for_it(
    hsm: SoftHsm, provider: Pkcs11KeyProvider, opener
) -> None:
    wrapped = await provider.wrap(b"k" * 32, b"here")
    hsm.remove()
    hsm.tokens.mkdir()
    hsm.initialise(LABEL)
    other = await opener()
    assert other.kek_id != provider.kek_id
    assert not other.holds(wrapped)
    assert provider.worker_pid is not None
    os.kill(provider.worker_pid, signal.SIGKILL)
    with pytest.raises(TokenOut, match="is not the one it was"):
        await provider.wrap(b"k" * 32, b"here")
    shutil.rmtree(hsm.tokens)
    hsm.insert()
    await until(provider.check)
    assert await provider.unwrap(wrapped, b"here") == b"k" * 32


async def test_who_gives_up_leaves_the_others_their_own_answers(provider: Pkcs11KeyProvider) -> None:
    keys = [bytes([n]) * 32 for n in range(30)]
    wrapped = [await provider.wrap(key, b"here") for key in keys]
    calls = [asyncio.create_task(provider.unwrap(one, b"here")) for one in wrapped]
    await asyncio.sleep(0)
    for call in calls[::3]:
        call.cancel()
    found = await asyncio.gather(*calls, return_exceptions=True)
    assert [bytes(key) for n, key in enumerate(found) if n % 3] == [key for n, key in enumerate(keys) if n % 3]
    assert all(isinstance(gone, asyncio.CancelledError) for gone in found[::3])


async def test_a_crash_of_the_worker_leaves_no_memory_on_the_disk(provider: Pkcs11KeyProvider) -> None:
    assert provider.worker_pid is not None
    assert resource.prlimit(provider.worker_pid, resource.RLIMIT_CORE) == (0, 0)


async def test_what_the_token_opens_but_did_not_wrap_for_us_is_refused(
    hsm: SoftHsm, provider: Pkcs11KeyProvider
) -> None:
    """The zeros in front of the key commit to the key of the token: AES-GCM alone opens under more than one."""
    header = b"\x02" + bytes.fromhex(provider.kek_id.removeprefix("pkcs11:"))
    program = """
from pkcs11.mechanisms import GCMParams
with token.open(user_pin={pin!r}) as session:
    (key,) = session.get_objects({{Attribute.LABEL: {label!r}}})
    for front in (bytes(32), bytes(31) + b"x"):
        param = GCMParams(nonce=bytes(12), aad={aad!r}, tag_bits=128)
        print(key.encrypt(front + b"k" * 32, mechanism=Mechanism.AES_GCM, mechanism_param=param).hex())
"""
    told = run_alone(hsm, program.format(pin=PIN, label=KEY, aad=header + b"here"))
    ours, another = [header + bytes(12) + bytes.fromhex(line) for line in told.split()]
    assert await provider.unwrap(ours, b"here") == b"k" * 32
    with pytest.raises(WrapRefused):
        await provider.unwrap(another, b"here")
