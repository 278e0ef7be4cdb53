"""All settings of an installation, and what marks it as production."""

from __future__ import annotations

import fcntl
import ipaddress
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from sealwire.adapters.distributed.drivers.cache_address import CacheAddress
from sealwire.boundary.config import BoundaryConfig
from sealwire.kit.config import Setting, SettingError
from sealwire.kit.config import load as load_sections
from sealwire.kit.files import write_whole
from sealwire.services.auth.config import AuthConfig
from sealwire.services.auth.relying_party import party_of
from sealwire.services.compliance.config import ComplianceConfig
from sealwire.services.compliance.witnesses import witness_keys
from sealwire.services.crypto.config import CryptoConfig
from sealwire.services.crypto.providers import FileKeyProvider
from sealwire.services.gateway.config import GatewayConfig
from sealwire.services.media.config import MediaConfig
from sealwire.services.messaging.config import MessagingConfig
from sealwire.services.search.config import SearchConfig
from sealwire.services.socket.config import SocketConfig

FILE = "sealwire.toml"
INSTALLATION = "installation.json"
RUNNING = "running.json"
MARKER = "sealwire-data"
SECRETS = frozenset(
    {"cache.sentinel_password", "auth.owner_token", "auth.smtp_password", "auth.legacy", "auth.providers"}
)
"""Settings whose values are never shown."""


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The `[server]` section."""

    data: Annotated[str, Meta(description="The data folder", min_length=1)] = "data"
    host: Annotated[str, Meta(description="Address to listen on; other than loopback needs `sealwire keys init`")] = (
        "127.0.0.1"
    )
    port_base: Annotated[int, Meta(ge=1, le=65_000, description="The gateway's port; services follow at +2 … +9")] = (
        3000
    )
    expose_services: Annotated[bool, Meta(description="Open each service's own port (base+4 … base+9) too")] = False
    public_url: Annotated[
        str, Meta(description="The address clients use, when it differs (behind a proxy); also the tokens' issuer")
    ] = ""
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="What is logged to stderr")] = (
        "warning"
    )
    stop_grace_s: Annotated[
        float, Meta(ge=0, le=600, description="How long requests in flight may take when stopping")
    ] = 5.0


class CacheConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The `[cache]` section: where the session cache, presence and the bus between processes live."""

    url: Annotated[
        str,
        Meta(
            description="Address of a Redis or Valkey server (redis, rediss, valkey, valkeys, unix), or of sentinels"
            " that know it (redis+sentinel://host:port,host:port/name); empty: in process"
        ),
    ] = ""
    sentinel_user: Annotated[str, Meta(description="Who logs in at the sentinels; empty: their default user")] = ""
    sentinel_password: Annotated[str, Meta(description="Their password; empty: they ask for none")] = ""
    ca: Annotated[
        str, Meta(description="File (PEM) of the authorities that sign its certificate; empty: those of the machine")
    ] = ""
    prefix: Annotated[
        str, Meta(description="Begins every key of this installation", pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    ] = "sealwire"
    timeout_ms: Annotated[
        int, Meta(ge=10, le=5000, description="After this many milliseconds a call to the cache counts as failed")
    ] = 250
    connections: Annotated[int, Meta(ge=1, le=1000, description="Connections to the cache, at most")] = 16


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Every section, checked."""

    server: ServerConfig
    cache: CacheConfig
    gateway: GatewayConfig
    auth: AuthConfig
    boundary: BoundaryConfig
    compliance: ComplianceConfig
    crypto: CryptoConfig
    messaging: MessagingConfig
    media: MediaConfig
    search: SearchConfig
    socket: SocketConfig

    @property
    def data(self) -> Path:
        """The data folder."""
        return Path(self.server.data)

    @property
    def loopback(self) -> bool:
        """Whether it listens on this machine only."""
        return is_loopback(self.server.host)


SECTIONS: dict[str, type[msgspec.Struct]] = {
    "server": ServerConfig,
    "cache": CacheConfig,
    "gateway": GatewayConfig,
    "auth": AuthConfig,
    "boundary": BoundaryConfig,
    "compliance": ComplianceConfig,
    "crypto": CryptoConfig,
    "messaging": MessagingConfig,
    "media": MediaConfig,
    "search": SearchConfig,
    "socket": SocketConfig,
}


class Installation(msgspec.Struct, frozen=True, kw_only=True):
    """What `sealwire keys init` wrote down about the installation. `kek` is empty when it is in a token."""

    kek: str


def load(
    *, flags: Mapping[str, Mapping[str, Any]], env: Mapping[str, str] | None = None, file: Path | None = None
) -> tuple[Settings, list[Setting]]:
    """Read and check all settings. Raises: SettingError naming the setting at fault."""
    sections, found = load_sections(SECTIONS, file=file or Path(FILE), env=env, flags=flags)
    found = [_without_password(setting) for setting in found]
    settings, found = _with_issuer(Settings(**sections), found)
    production = installation(settings.data) is not None
    registration = settings.auth.registration
    if (production or not settings.loopback) and any(
        s.name == "auth.registration" and s.origin == "default" for s in found
    ):
        registration = "invite"
        auth = msgspec.structs.replace(settings.auth, registration=registration)
        settings = msgspec.structs.replace(settings, auth=auth)
    if not settings.loopback and not production:
        raise SettingError(
            f"server.host: {settings.server.host} is reachable from outside; "
            "run `sealwire keys init --kek PATH` with a path outside of the data folder first"
        )
    if production and settings.gateway.rate_limits == "off":
        raise SettingError("gateway.rate_limits: `off` is refused in production")
    if production and registration == "open":
        raise SettingError("auth.registration: `open` is refused in production; use `invite` or `closed`")
    _check_cache(settings.cache, found)
    try:
        party_of(settings.auth, settings.server.public_url or "http://localhost")
        witness_keys(settings.compliance.witnesses)
    except ValueError as error:
        raise SettingError(str(error)) from None
    return settings, found


def _with_issuer(settings: Settings, found: list[Setting]) -> tuple[Settings, list[Setting]]:
    """Name people's own tokens after the address they reach us at, as apps' tokens are, unless a name is set."""
    url = settings.server.public_url.rstrip("/")
    if not url or any(s.name == "auth.issuer" and s.origin != "default" for s in found):
        return settings, found
    found = [
        msgspec.structs.replace(s, value=url, origin="server.public_url") if s.name == "auth.issuer" else s
        for s in found
    ]
    auth = msgspec.structs.replace(settings.auth, issuer=url)
    return msgspec.structs.replace(settings, auth=auth), found


def _check_cache(cache: CacheConfig, found: list[Setting]) -> None:
    """Raises: SettingError for an address of no use; it does not tell who logs in there."""
    try:
        sentinels = CacheAddress.read(cache.url, ca=cache.ca).sentinels if cache.url else ()
    except ValueError as error:
        origin = next(setting.origin for setting in found if setting.name == "cache.url")
        raise SettingError(f"{origin}: cache.url: {error}") from None
    if (cache.sentinel_user or cache.sentinel_password) and not sentinels:
        raise SettingError("cache.sentinel_user and cache.sentinel_password: cache.url names no sentinels")


def _without_password(setting: Setting) -> Setting:
    """Return a setting as it may be shown: no secret; an address keeps its host, not who logs in there."""
    if setting.name in SECRETS and setting.value:
        return msgspec.structs.replace(setting, value="***")
    before, at, after = str(setting.value).rpartition("@")
    if setting.name != "cache.url" or not at:
        return setting
    return msgspec.structs.replace(setting, value=f"{before.partition('://')[0]}://***@{after}")


def is_loopback(host: str) -> bool:
    """Whether the address is of this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def installation(data: Path) -> Installation | None:
    """Return what was written down, or None for one that is not production."""
    try:
        return msgspec.json.decode((data / INSTALLATION).read_bytes(), type=Installation)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise SettingError(f"{data / INSTALLATION}: can't be read: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise SettingError(f"{data / INSTALLATION}: not readable: {error}") from None


def kek_path(data: Path) -> Path:
    """Return where the key-encryption key is."""
    found = installation(data)
    return Path(found.kek) if found is not None else data / "keys" / "kek"


def mark_production(data: Path, kek: Path | None) -> None:
    """Make the key-encryption key outside of the data folder and note where; None: it is in a token.

    Raises: ValueError.
    """
    kek, data = kek and kek.resolve(), data.resolve()
    if kek is not None and kek.is_relative_to(data):
        raise ValueError(f"{kek} lies in the data folder; whoever copies the data would have the key as well")
    if installation(data) is not None:
        raise ValueError(f"{data} is production already")
    if (data / "keys" / "kek").exists():
        raise ValueError(f"{data} has a key of its own already; start production with an empty data folder")
    prepare_data(data)
    if kek is not None:
        kek.parent.mkdir(parents=True, exist_ok=True)
        FileKeyProvider.open(kek).close()
    write_whole(data / INSTALLATION, msgspec.json.encode(Installation(kek=str(kek or ""))))


def prepare_data(data: Path) -> None:
    """Make the data folder, readable by its owner only, and mark it as ours.

    Raises: SettingError for what is no folder, or a folder that holds something else.
    """
    if data.exists() and not data.is_dir():
        raise SettingError(f"{data}: not a folder; choose another one with --data")
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not (data / MARKER).exists() and any(data.iterdir()):
        raise SettingError(f"{data}: holds files that are not Sealwire's; choose an empty or new folder with --data")
    (data / MARKER).touch(mode=0o600)
    for folder in (data / "keys", data / "keys" / "services"):
        folder.mkdir(mode=0o700, exist_ok=True)


def own_data(data: Path) -> int:
    """Own a data folder until the returned descriptor is closed or the process ends.

    Raises: SettingError when another process owns it.
    """
    handle = os.open(data / MARKER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        owner = os.read(handle, 32).decode(errors="replace").strip()
        os.close(handle)
        raise SettingError(f"{data}: in use by process {owner or '(unknown)'}; stop that one first") from None
    os.ftruncate(handle, 0)
    os.pwrite(handle, b"%d\n" % os.getpid(), 0)
    return handle


def is_in_use(data: Path) -> bool:
    """Whether a process owns the data folder now."""
    try:
        handle = os.open(data / MARKER, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def remove_data(data: Path) -> None:
    """Remove a data folder. Raises: SettingError for a folder that is not one of ours, or in use."""
    if not (data / MARKER).exists() and any(data.iterdir()):
        raise SettingError(f"{data}: not a data folder of Sealwire; nothing was removed")
    handle = own_data(data)
    try:
        shutil.rmtree(data)
    finally:
        os.close(handle)


def running_url(data: Path) -> str | None:
    """Return the address an installation with this data folder serves at, as it wrote it down."""
    try:
        return str(msgspec.json.decode((data / RUNNING).read_bytes())["url"])
    except (OSError, msgspec.DecodeError, KeyError):
        return None
