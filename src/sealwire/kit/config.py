"""Settings: from `sealwire.toml`, then the environment, then flags; each knows its meaning, range and origin."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from sealwire.kit.codec import invalid

S = TypeVar("S", bound=msgspec.Struct)
ENV_PREFIX = "SEALWIRE_"
NO_SETTINGS = frozenset({"SEALWIRE_TOKEN", "SEALWIRE_PEERS"})
"""What else is named so in the environment: a token for the command line, a folder of the benchmarks."""


class SettingError(Exception):
    """A setting is unknown or out of range; the text names it, where it came from, and what it may be."""


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One setting as `sealwire config` prints it."""

    name: str
    value: Any
    default: Any
    meaning: str
    allowed: str
    origin: str


def load(sections: Mapping[str, type[msgspec.Struct]], *, file: Path | None, env: Mapping[str, str] | None = None,
         flags: Mapping[str, Mapping[str, Any]] | None = None) -> tuple[dict[str, Any], list[Setting]]:  # fmt: skip
    """Read every section. Returns the structs by section name, and all settings with their origin.

    Raises: SettingError for the first setting that is unknown, mistyped or out of range.
    """
    origins: dict[tuple[str, str], str] = {}
    raw: dict[str, dict[str, Any]] = {name: {} for name in sections}
    for section, name, value, origin in [
        *_from_file(file), *_from_env(sections, env if env is not None else os.environ), *_from_flags(flags or {}),
    ]:  # fmt: skip
        if section not in sections:
            raise SettingError(f"{origin}: there is no section [{section}]; sections are {', '.join(sections)}")
        if name not in sections[section].__struct_fields__:
            known = ", ".join(sections[section].__struct_fields__)
            raise SettingError(f"{origin}: there is no setting {section}.{name}; [{section}] has {known}")
        raw[section][name] = value
        origins[section, name] = origin
    loaded: dict[str, Any] = {}
    settings: list[Setting] = []
    for section, struct in sections.items():
        loaded[section] = _convert(section, struct, raw[section], origins)
        settings += _describe(section, struct, loaded[section], origins)
    return loaded, settings


def _from_file(file: Path | None) -> Iterator[tuple[str, str, Any, str]]:
    if file is None:
        return
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except OSError as error:
        raise SettingError(f"{file}: can't be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingError(f"{file}: not readable as TOML: {error}") from None
    for section, values in document.items():
        if not isinstance(values, dict):
            raise SettingError(f"{file}: {section} stands outside of a [section]")
        for name, value in values.items():
            yield section, name, value, str(file)


def _from_env(
    sections: Mapping[str, type[msgspec.Struct]], env: Mapping[str, str]
) -> Iterator[tuple[str, str, Any, str]]:
    for variable, text in sorted(env.items()):
        if not variable.startswith(ENV_PREFIX) or variable in NO_SETTINGS:
            continue
        if "__" not in variable:
            raise SettingError(
                f"{variable}: not a setting; they are named {ENV_PREFIX}<SECTION>__<NAME>, two underscores"
            )
        section, _, name = variable.removeprefix(ENV_PREFIX).lower().partition("__")
        value: Any = text
        field = _fields(sections[section]).get(name) if section in sections else None
        if field is not None and _is_container(field.type):
            try:
                value = msgspec.json.decode(text)
            except msgspec.DecodeError:
                value = [part.strip() for part in text.split(",") if part.strip()]
        yield section, name, value, variable


def _from_flags(flags: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str, Any, str]]:
    for section, values in flags.items():
        for name, value in values.items():
            if value is not None:
                yield section, name, value, f"--{name.replace('_', '-')}"


def _convert(section: str, struct: type[S], values: dict[str, Any], origins: dict[tuple[str, str], str]) -> S:
    try:
        return msgspec.convert(values, struct, strict=False)
    except msgspec.ValidationError as error:
        problem = invalid(error, struct)
        path = problem.extra["path"].removeprefix("$.")
        origin = origins.get((section, path.split(".")[0].split("[")[0]), "default")
        raise SettingError(f"{origin}: {section}.{path}: {problem.detail}") from None


def _fields(struct: type[msgspec.Struct]) -> dict[str, Any]:
    return {field.name: field for field in msgspec.structs.fields(struct)}


def _is_container(kind: Any) -> bool:
    origin = get_origin(kind)
    if origin is None:
        return False
    if origin in (list, tuple, dict, set, frozenset):
        return True
    return any(_is_container(arg) for arg in get_args(kind))


def _describe(
    section: str, struct: type[msgspec.Struct], value: msgspec.Struct, origins: dict[tuple[str, str], str]
) -> list[Setting]:
    hints = get_type_hints(struct, include_extras=True)
    found = []
    for name, field in _fields(struct).items():
        meta = next((m for m in getattr(hints[name], "__metadata__", ()) if isinstance(m, msgspec.Meta)), None)
        default = field.default if field.default is not msgspec.NODEFAULT else None
        found.append(
            Setting(
                name=f"{section}.{name}",
                value=getattr(value, name),
                default=default,
                meaning=(meta.description or "") if meta else "",
                allowed=_allowed(hints[name], meta),
                origin=origins.get((section, name), "default"),
            )
        )
    return found


def _allowed(hint: Any, meta: msgspec.Meta | None) -> str:
    kind = get_args(hint)[0] if meta is not None else hint
    choices = [str(arg) for arg in get_args(kind) if isinstance(arg, str)]
    if choices:
        return " | ".join(choices)
    low = meta.ge if meta is not None else None
    high = meta.le if meta is not None else None
    name = getattr(kind, "__name__", str(kind))
    if low is None and high is None:
        return name
    return f"{name} {'' if low is None else low}..{'' if high is None else high}"
