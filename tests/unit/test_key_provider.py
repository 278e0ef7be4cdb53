"""Where the key-encryption key is: the record beside the keys, the settings, and what happens when they disagree."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sealwire.kit.clock import SystemClock
from sealwire.kit.config import SettingError
from sealwire.runtime import settings as runtime_settings
from sealwire.runtime.assembly import Assembly
from sealwire.runtime.key_provider import (
    Place,
    Record,
    agreed_record,
    file_place,
    open_providers,
    read_record,
    record_of,
    token_place,
    write_record,
)
from sealwire.runtime.settings import Settings
from sealwire.services.crypto.providers import FileKeyProvider, KekUnusable

TOKEN = {"pkcs11_module": "/lib/p11.so", "pkcs11_token": "vault", "pkcs11_pin": "file:/run/pin"}


def load(data: Path, **crypto: str) -> Settings:
    return runtime_settings.load(flags={"server": {"data": str(data)}, "crypto": crypto}, env={})[0]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    runtime_settings.prepare_data(tmp_path / "data")
    return tmp_path / "data"


def used(data: Path) -> None:
    (data / "crypto.db").touch()


async def test_at_first_it_is_a_file_in_the_data_folder_and_made_once(data: Path) -> None:
    assert record_of(load(data)).current == file_place(data / "keys" / "kek")
    first = await open_providers(load(data), SystemClock())
    assert (await open_providers(load(data), SystemClock())).kek_id == first.kek_id
    assert read_record(data) is None, "nothing to remember"


async def test_a_lost_key_file_is_not_replaced_by_another(data: Path) -> None:
    (await open_providers(load(data), SystemClock())).close()
    used(data)
    (data / "keys" / "kek").unlink()
    with pytest.raises(KekUnusable, match="restore it from its backup"):
        await open_providers(load(data), SystemClock())
    assert not (data / "keys" / "kek").exists()


async def test_a_key_file_elsewhere_is_named_by_the_setting_or_by_init(data: Path, tmp_path: Path) -> None:
    assert record_of(load(data, kek_path=str(tmp_path / "k"))).current.kek == str(tmp_path / "k")
    runtime_settings.mark_production(data, tmp_path / "vault" / "kek")
    assert record_of(load(data)).current.kek == str(tmp_path / "vault" / "kek")


def test_a_token_needs_all_its_names(data: Path) -> None:
    for absent in TOKEN:
        named = {name: value for name, value in TOKEN.items() if name != absent}
        with pytest.raises(SettingError, match=f"crypto.{absent}"):
            record_of(load(data, provider="pkcs11", **named))
    place = record_of(load(data, provider="pkcs11", **TOKEN)).current
    assert place == Place(kind="pkcs11", module="/lib/p11.so", token="vault", key="sealwire-kek", pin="file:/run/pin")
    assert place == token_place(load(data, **TOKEN).crypto)


def test_a_token_is_recorded_so_that_it_opens_from_every_working_folder(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").mkdir()
    (tmp_path / "mounted").symlink_to("secret")
    for given, recorded in (
        ("file:mounted/pin", f"file:{tmp_path}/mounted/pin"),  # not what it leads to: that changes with a new PIN
        ("env:PIN", "env:PIN"),
    ):
        assert token_place(load(data, **{**TOKEN, "pkcs11_pin": given}).crypto).pin == recorded


def test_a_pin_is_no_setting_and_is_not_repeated(data: Path) -> None:
    with pytest.raises(SettingError) as told:
        load(data, pkcs11_pin="4711-secret")
    assert "crypto.pkcs11_pin" in str(told.value)
    assert "4711" not in str(told.value)


def test_production_may_begin_in_a_token(data: Path) -> None:
    runtime_settings.mark_production(data, None)
    assert record_of(load(data, **TOKEN)).current.kind == "pkcs11", "no other setting is needed"
    with pytest.raises(SettingError, match="pkcs11_module"):
        record_of(load(data))
    with pytest.raises(ValueError, match="production already"):
        runtime_settings.mark_production(data, data.parent / "kek")


async def test_settings_do_not_move_keys(data: Path, tmp_path: Path) -> None:
    (await open_providers(load(data), SystemClock())).close()
    used(data)
    with pytest.raises(SettingError, match="migrate-provider --to pkcs11"):
        await open_providers(load(data, provider="pkcs11", **TOKEN), SystemClock())
    write_record(data, Record(current=token_place(load(data, **TOKEN).crypto)))
    with pytest.raises(SettingError, match="migrate-provider --to file"):
        await open_providers(load(data, provider="file"), SystemClock())


async def test_while_keys_move_both_are_open_and_the_new_one_wraps(data: Path, tmp_path: Path) -> None:
    old = await open_providers(load(data), SystemClock())
    used(data)
    new = FileKeyProvider.open(tmp_path / "new")
    record = Record(current=file_place(data / "keys" / "kek"), target=file_place(tmp_path / "new"))
    write_record(data, record)
    assert read_record(data) == record
    both = await open_providers(load(data), SystemClock())
    assert both.kek_id == new.kek_id
    assert both.kek_ids == {old.kek_id, new.kek_id}
    wrapped = await old.wrap(b"k" * 32, b"here")
    assert await both.unwrap(wrapped, b"here") == b"k" * 32
    (tmp_path / "new").unlink()
    with pytest.raises(KekUnusable, match="restore it"):
        await open_providers(load(data), SystemClock())


def test_a_library_or_a_pin_that_moved_is_told_by_the_settings(data: Path) -> None:
    place = token_place(load(data, **TOKEN).crypto)
    write_record(data, Record(current=place))
    moved = agreed_record(load(data, pkcs11_module="/new/p11.so", pkcs11_pin="env:PIN", pkcs11_token="another")).current
    assert (moved.module, moved.pin) == ("/new/p11.so", "env:PIN")
    assert moved.token == "vault", "another token has other keys"


def test_a_damaged_record_stops_the_start(data: Path) -> None:
    (data / "keys" / "provider.json").write_text("{")
    with pytest.raises(SettingError, match="not readable"):
        record_of(load(data))


def test_without_a_token_nothing_of_it_is_loaded(data: Path) -> None:
    """Start time and memory at rest are measured."""
    program = (
        "import asyncio, sys, sealwire.runtime.assembly\n"
        "from sealwire.kit.clock import SystemClock\n"
        "from sealwire.runtime import settings\n"
        "from sealwire.runtime.key_provider import open_providers\n"
        f"loaded, _ = settings.load(flags={{'server': {{'data': {str(data)!r}}}}}, env={{}})\n"
        "asyncio.run(open_providers(loaded, SystemClock()))\n"
        "print([name for name in sys.modules if name.startswith(('pkcs11', 'sealwire.adapters.hsm'))])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_who_has_the_key_in_a_token_is_not_told_to_put_a_file_back(data: Path) -> None:
    hints = {name: hint for name, _, hint in Assembly(settings=load(data, provider="pkcs11", **TOKEN)).steps()}
    assert "token and PIN" in hints["key-encryption key"]
