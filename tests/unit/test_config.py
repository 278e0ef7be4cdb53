"""Settings: three sources in order, and a clear stop for what is wrong."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import pytest
from msgspec import Meta

from sealwire.kit.config import SettingError, load


class Tank(msgspec.Struct, frozen=True, kw_only=True):
    litres: Annotated[int, Meta(ge=1, le=100, description="How much it holds")] = 10
    mode: Literal["on", "off"] = "on"
    fish: list[str] = []


SECTIONS = {"tank": Tank}


def test_flags_beat_the_environment_which_beats_the_file(tmp_path):
    file = tmp_path / "sealwire.toml"
    file.write_text('[tank]\nlitres = 20\nfish = ["cod"]\nmode = "off"\n')
    env = {"SEALWIRE_TANK__LITRES": "30", "SEALWIRE_TANK__MODE": "on", "HOME": "/"}
    loaded, settings = load(SECTIONS, file=file, env=env, flags={"tank": {"litres": 40, "mode": None}})
    assert loaded["tank"] == Tank(litres=40, mode="on", fish=["cod"])
    origin = {s.name: s.origin for s in settings}
    assert origin == {"tank.litres": "--litres", "tank.mode": "SEALWIRE_TANK__MODE", "tank.fish": str(file)}
    about = next(s for s in settings if s.name == "tank.litres")
    assert (about.meaning, about.allowed, about.default) == ("How much it holds", "int 1..100", 10)


def test_lists_come_from_the_environment_too():
    assert load(SECTIONS, file=None, env={"SEALWIRE_TANK__FISH": "cod, eel"})[0]["tank"].fish == ["cod", "eel"]
    assert load(SECTIONS, file=None, env={"SEALWIRE_TANK__FISH": '["a,b"]'})[0]["tank"].fish == ["a,b"]


@pytest.mark.parametrize(
    ("env", "told"),
    [
        ({"SEALWIRE_TANK__LITRES": "0"}, "tank.litres"),
        ({"SEALWIRE_TANK__LITRES": "x"}, "SEALWIRE_TANK__LITRES"),
        ({"SEALWIRE_TANK__MODE": "maybe"}, "tank.mode: Expected one of `off`, `on`"),
        ({"SEALWIRE_TANK__FISH": '["cod", 3]'}, r"tank\.fish\[1\]: "),
        ({"SEALWIRE_TANK__DEPTH": "1"}, "tank.depth"),
        ({"SEALWIRE_POND__DEPTH": "1"}, "pond"),
        ({"SEALWIRE_TANK_LITRES": "1"}, "two underscores"),
    ],
)
def test_what_is_wrong_is_named(env, told):
    with pytest.raises(SettingError, match=told):
        load(SECTIONS, file=None, env=env)


def test_a_broken_file_is_named(tmp_path):
    file = tmp_path / "sealwire.toml"
    file.write_text("[tank\n")
    with pytest.raises(SettingError, match=r"sealwire\.toml"):
        load(SECTIONS, file=file, env={})
