"""Which key provider an installation uses: from the record beside its keys, else from the settings."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Final, Literal

import msgspec

from sealwire.kit.clock import Clock
from sealwire.kit.config import SettingError
from sealwire.kit.files import write_whole
from sealwire.runtime.settings import Settings, installation, kek_path
from sealwire.services.crypto.config import CryptoConfig
from sealwire.services.crypto.provider_set import ProviderSet
from sealwire.services.crypto.providers import FileKeyProvider, KeyProvider

RECORD: Final = "provider.json"
DATABASE: Final = "crypto.db"


class Place(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a key-encryption key is. `pin` says where the token's PIN is, and never holds it."""

    kind: Literal["file", "pkcs11"]
    kek: str = ""
    module: str = ""
    token: str = ""
    key: str = ""
    pin: str = ""

    def __str__(self) -> str:
        return self.kek if self.kind == "file" else f"the key {self.key!r} in the token {self.token!r}"


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`<data>/keys/provider.json`, written when keys move: where they are, and while they move, where to."""

    current: Place
    target: Place | None = None


def read_record(data: Path) -> Record | None:
    """Return the record; None when keys never moved. Raises: SettingError."""
    path = data / "keys" / RECORD
    try:
        return msgspec.json.decode(path.read_bytes(), type=Record)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise SettingError(f"{path}: not readable: {error}") from None


def write_record(data: Path, record: Record) -> None:
    """Write it, durably. Raises: OSError."""
    write_whole(data / "keys" / RECORD, msgspec.json.format(msgspec.json.encode(record)))


def file_place(path: Path) -> Place:
    """Return the place of a key file."""
    return Place(kind="file", kek=str(path.resolve()))


def token_place(config: CryptoConfig) -> Place:
    """Return the token that the settings name. Raises: SettingError when they don't name it whole."""
    named = {
        "pkcs11_module": config.pkcs11_module,
        "pkcs11_token": config.pkcs11_token,
        "pkcs11_pin": config.pkcs11_pin,
    }
    if absent := [name for name, value in named.items() if not value]:
        raise SettingError(f"crypto.{absent[0]}: needed for a key-encryption key in a token")
    return Place(
        kind="pkcs11", module=config.pkcs11_module, token=config.pkcs11_token, key=config.pkcs11_key,
        pin=_anywhere(config.pkcs11_pin),
    )  # fmt: skip


def _anywhere(pin: str) -> str:
    """Say where a PIN is so that it is found from every working folder: who recorded it is not who starts up."""
    kind, gap, path = pin.partition(":")
    return f"{kind}{gap}{Path(path).absolute()}" if kind == "file" and path else pin


def record_of(settings: Settings) -> Record:
    """Return the record, or what it would say for an installation whose keys never moved. Raises: SettingError."""
    return read_record(settings.data) or Record(current=_first_place(settings))


def agreed_record(settings: Settings) -> Record:
    """Return where the keys are. Raises: SettingError when the settings say otherwise."""
    config, record = settings.crypto, read_record(settings.data)
    if record is None:
        return record_of(settings)
    kinds = {record.current.kind} | ({record.target.kind} if record.target else set())
    if config.provider != "auto" and config.provider not in kinds:
        raise SettingError(
            f"crypto.provider: it says {config.provider}, and the keys are under {record.current}; change the setting, "
            f"or move them with `sealwire keys migrate-provider --to {config.provider}`"
        )
    if record.target is not None:
        return record
    return Record(current=_with_settings(record.current, config))


def _first_place(settings: Settings) -> Place:
    config = settings.crypto
    file = file_place(Path(config.kek_path or kek_path(settings.data)))
    found = installation(settings.data)
    in_token = config.provider == "pkcs11" or (config.provider == "auto" and found is not None and not found.kek)
    if not in_token:
        return file_place(Path(found.kek)) if found is not None and found.kek else file
    if (settings.data / DATABASE).exists() and Path(file.kek).exists():
        raise SettingError(
            f"crypto.provider: it says pkcs11, and the keys are under {file}; "
            "move them with `sealwire keys migrate-provider --to pkcs11`"
        )
    return token_place(config)


def _with_settings(place: Place, config: CryptoConfig) -> Place:
    """A library, a PIN or a file that moved is told by the settings; a wrong key is refused at the start anyway."""
    if place.kind == "file":
        return msgspec.structs.replace(place, kek=config.kek_path or place.kek)
    return msgspec.structs.replace(
        place, module=config.pkcs11_module or place.module, pin=config.pkcs11_pin or place.pin
    )


async def open_place(place: Place, *, settings: Settings, clock: Clock, create: bool) -> KeyProvider:
    """Open a provider. Raises: KekUnusable."""
    if place.kind == "file":
        return FileKeyProvider.open(Path(place.kek), create=create)
    from sealwire.adapters.hsm.pkcs11 import Pkcs11KeyProvider, TokenPlace

    return await Pkcs11KeyProvider.open(
        TokenPlace(
            module=place.module, token=place.token, key=place.key, pin=place.pin,
            timeout_s=settings.crypto.pkcs11_timeout_s,
        ),
        create=create,
        refused_pin=settings.data / "keys" / f"pin-refused-{sha256(place.token.encode()).hexdigest()[:8]}",
        clock=clock,
    )  # fmt: skip


async def open_providers(settings: Settings, clock: Clock) -> ProviderSet:
    """Open the provider that wraps, and while keys move, the other one too. Raises: KekUnusable, SettingError.

    A key-encryption key is made only while there is nothing yet that one could have wrapped.
    """
    record = agreed_record(settings)
    create = not (settings.data / DATABASE).exists()
    current = await open_place(record.current, settings=settings, clock=clock, create=create)
    if record.target is None:
        if record.current.kind == "pkcs11" and read_record(settings.data) is None:
            write_record(settings.data, record)
        return ProviderSet(current)
    try:
        target = await open_place(record.target, settings=settings, clock=clock, create=False)
    except BaseException:
        current.close()
        raise
    return ProviderSet(target, current)
