"""What an installation refuses to start with, and what marks it as production."""

from __future__ import annotations

from pathlib import Path

import pytest

from sealwire.kit.config import SettingError
from sealwire.runtime import settings


def load(data: Path, **env: str) -> settings.Settings:
    flags = {"server": {"data": str(data)}}
    return settings.load(flags=flags, env=env, file=data / "none.toml")[0]


def test_on_loopback_registration_is_open(tmp_path):
    assert load(tmp_path).auth.registration == "open"


def test_other_addresses_need_a_key_outside_of_the_data(tmp_path):
    data = tmp_path / "data"
    with pytest.raises(SettingError, match=r"server\.host.*keys init"):
        load(data, SEALWIRE_SERVER__HOST="0.0.0.0")
    with pytest.raises(ValueError, match="lies in the data folder"):
        settings.mark_production(data, data / "kek")
    settings.mark_production(data, tmp_path / "vault" / "kek")
    assert settings.kek_path(data) == tmp_path / "vault" / "kek"
    assert (tmp_path / "vault" / "kek").stat().st_mode & 0o077 == 0
    assert load(data, SEALWIRE_SERVER__HOST="0.0.0.0").auth.registration == "invite"
    with pytest.raises(ValueError, match="already"):
        settings.mark_production(data, tmp_path / "vault" / "other")


def test_production_refuses_what_is_for_load_tests(tmp_path):
    data = tmp_path / "data"
    settings.mark_production(data, tmp_path / "kek")
    with pytest.raises(SettingError, match=r"gateway\.rate_limits"):
        load(data, SEALWIRE_GATEWAY__RATE_LIMITS="off")
    with pytest.raises(SettingError, match=r"auth\.registration"):
        load(data, SEALWIRE_AUTH__REGISTRATION="open")
    assert load(data).auth.registration == "invite"


def test_passkeys_are_for_a_domain_that_the_pages_are_of(tmp_path):
    with pytest.raises(SettingError, match=r"auth\.passkey_rp_id"):
        load(tmp_path, SEALWIRE_AUTH__PASSKEY_RP_ID="example.org", SEALWIRE_SERVER__PUBLIC_URL="https://example.com")
    with pytest.raises(SettingError, match=r"auth\.passkey_origins"):
        load(tmp_path, SEALWIRE_AUTH__PASSKEY_ORIGINS="http://example.org")
    with pytest.raises(SettingError, match=r"server\.public_url"):
        load(tmp_path, SEALWIRE_SERVER__PUBLIC_URL="chat.example.org")
    loaded = load(
        tmp_path,
        SEALWIRE_AUTH__PASSKEY_RP_ID="example.org",
        SEALWIRE_AUTH__PASSKEY_ORIGINS="https://chat.example.org,https://example.org",
    )
    assert loaded.auth.passkey_origins == ("https://chat.example.org", "https://example.org")


def test_the_address_people_reach_us_at_names_all_tokens(tmp_path):
    assert load(tmp_path).auth.issuer == "https://sealwire.local"
    assert load(tmp_path, SEALWIRE_SERVER__PUBLIC_URL="https://a.example.org/").auth.issuer == "https://a.example.org"
    named = {"SEALWIRE_SERVER__PUBLIC_URL": "https://a.example.org", "SEALWIRE_AUTH__ISSUER": "https://b.example.org"}
    assert load(tmp_path, **named).auth.issuer == "https://b.example.org"
    del named["SEALWIRE_AUTH__ISSUER"]
    _, found = settings.load(flags={}, env=named, file=tmp_path / "none.toml")
    told = next(setting for setting in found if setting.name == "auth.issuer")
    assert (told.value, told.origin) == ("https://a.example.org", "server.public_url")


def test_only_our_own_folder_is_removed(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.doc").write_text("years of work")
    with pytest.raises(SettingError, match="nothing was removed"):
        settings.remove_data(tmp_path / "data")
    settings.prepare_data(tmp_path / "ours")
    settings.remove_data(tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize(("host", "answer"), [("127.0.0.1", True), ("::1", True), ("localhost", True),
                                              ("0.0.0.0", False), ("example.org", False)])  # fmt: skip
def test_what_loopback_is(host, answer):
    assert settings.is_loopback(host) is answer
