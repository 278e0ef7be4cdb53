"""Where the cache is, read from one line: a server, or the sentinels that know which server it is now.

No engine is loaded here, so settings can be checked without one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Self
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

import msgspec

SERVER_PORT: Final = 6379
SENTINEL_PORT: Final = 26379
_SERVERS: Final = {"redis": False, "valkey": False, "rediss": True, "valkeys": True}
"""Schemes of a server reached over TCP, and whether they are secured by TLS."""
_SENTINELS: Final = {f"{scheme}+sentinel": secure for scheme, secure in _SERVERS.items()}
SCHEMES: Final = (*_SERVERS, "unix", *_SENTINELS)
Place = tuple[str, int]


class CacheAddress(msgspec.Struct, frozen=True, kw_only=True):
    """Host and port of a server, or the path of its socket, or sentinels and the name they watch the server by."""

    host: str = ""
    port: int = SERVER_PORT
    path: str = ""
    sentinels: tuple[Place, ...] = ()
    name: str = ""
    db: int = 0
    user: str = ""
    password: str = ""
    tls: bool = False
    ca: str = ""

    @classmethod
    def read(cls, url: str, *, ca: str = "") -> Self:
        """Read an address. `ca` is a file of the authorities trusted where it is secured by TLS.

        `redis://[user:password@]host[:port][/db]`, `unix://[user:password@]/path[?db=n]`, or
        `redis+sentinel://[user:password@]host[:port],host[:port],…/name[/db]`, where user and password are those of the
        servers. Raises: ValueError for anything else: options in it could take checks and time limits away.
        """
        parts = urlsplit(url)
        scheme = parts.scheme
        if scheme not in SCHEMES:
            raise ValueError(_unknown(scheme))
        if set(parse_qs(parts.query, keep_blank_values=True)) - ({"db"} if scheme == "unix" else set()):
            raise ValueError("the cache's address takes no options")
        tls = (_SERVERS | _SENTINELS).get(scheme, False)
        if ca and not tls:
            raise ValueError("authorities are for addresses with TLS (rediss, valkeys): this one is spoken to in clear")
        if ca and not Path(ca).is_file():
            raise ValueError(f"{ca}: no such file")
        user, password = _login(parts)
        if scheme == "unix":
            if not parts.path.strip("/"):
                raise ValueError("the address names no socket: unix:///path")
            db = _database(parse_qs(parts.query).get("db", [""])[0])
            return cls(path=unquote(parts.path), db=db, user=user, password=password)
        hosts = parts.netloc.rpartition("@")[2]
        if scheme in _SENTINELS:
            places = tuple(_place(text, SENTINEL_PORT) for text in hosts.split(","))
            name, _, db_text = parts.path.strip("/").partition("/")
            if not name:
                raise ValueError("the address names no server to ask the sentinels for: …/name or …/name/db")
            db = _database(db_text)
            return cls(sentinels=places, name=unquote(name), db=db, user=user, password=password, tls=tls, ca=ca)
        if "," in hosts:
            raise ValueError(f"several servers: name their sentinels, with {scheme}+sentinel://")
        host, port = _place(hosts, SERVER_PORT)
        db = _database(parts.path.strip("/"))
        return cls(host=host, port=port, db=db, user=user, password=password, tls=tls, ca=ca)


def _unknown(scheme: str) -> str:
    if "cluster" in scheme:
        return (
            "Redis Cluster is not supported: what the cache holds is small, so one server is enough, and a primary "
            "with replicas behind sentinels (redis+sentinel://) for when it is lost"
        )
    return f"unknown scheme {scheme!r}; one of {', '.join(SCHEMES)}"


def _login(parts: SplitResult) -> tuple[str, str]:
    user, _, password = parts.netloc.rpartition("@")[0].partition(":")
    return unquote(user), unquote(password)


def _place(text: str, port: int) -> Place:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname or "", parts.port or port
    except ValueError:
        host = ""
    if not host:
        raise ValueError("the address names no host, or one that can't be read: host or host:port")
    return host, port


def _database(text: str) -> int:
    if text and not (text.isascii() and text.isdigit()):
        raise ValueError("the database in the cache's address is a number")
    return int(text or 0)
