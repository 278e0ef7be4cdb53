"""The headers of tus 1.0.0, read and written; pure."""

from __future__ import annotations

import re
from binascii import a2b_base64
from email.utils import formatdate
from typing import Final

from sealwire.kit.exchange import Headers
from sealwire.kit.problem import Invalid, Malformed, Problem
from sealwire.services.media.examination import Meta
from sealwire.services.media.model import media_type, safe_name
from sealwire.services.media.uploads import ALGORITHMS, Checksum

VERSION: Final = "1.0.0"
EXTENSIONS: Final = "creation,creation-with-upload,creation-defer-length,expiration,checksum,termination,concatenation"
RESUMABLE: Final = (b"tus-resumable", VERSION.encode())
OCTETS: Final = b"application/offset+octet-stream"
NO_STORE: Final = (b"cache-control", b"no-store")
MAX_METADATA_CHARS: Final = 8_192
MAX_PARTS: Final = 1_000
_NUMBER: Final = re.compile(r"\d{1,15}")
_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")
US_PER_S: Final = 1_000_000


class WrongVersion(Problem):
    """The client speaks another version of tus; `Tus-Version` names ours."""

    code, title, status = "tus_version", "This server speaks tus 1.0.0", 412


class Metadata:
    """What `Upload-Metadata` says that matters here."""

    __slots__ = ("conversation_id", "meta")

    def __init__(self, header: str) -> None:
        """Raises: Malformed, Invalid."""
        pairs = parse_metadata(header)
        conversation_id = pairs.get("conversation_id", "")
        if conversation_id and _ID.fullmatch(conversation_id) is None:
            raise Invalid("The conversation_id is no id.", path="Upload-Metadata.conversation_id")
        self.conversation_id = conversation_id or None
        name = pairs.get("filename") or pairs.get("name") or ""
        claimed = pairs.get("filetype") or pairs.get("type") or ""
        self.meta = Meta(filename=safe_name(name), claimed_type=media_type(claimed))


def parse_metadata(header: str) -> dict[str, str]:
    """Read `key base64value, key2 …`. Raises: Malformed for what isn't, Invalid for a key that stands twice."""
    if len(header) > MAX_METADATA_CHARS:
        raise Invalid(f"The metadata may have {MAX_METADATA_CHARS} characters.", path="Upload-Metadata")
    found: dict[str, str] = {}
    for pair in header.split(",") if header.strip() else ():
        key, _, value = pair.strip().partition(" ")
        if not key or not key.isascii():
            raise Malformed("Upload-Metadata holds pairs of a name and a base64 value.", path="Upload-Metadata")
        if key in found:
            raise Invalid("A name stands in Upload-Metadata twice.", path="Upload-Metadata")
        try:
            found[key] = a2b_base64(value.strip(), strict_mode=True).decode("utf-8") if value.strip() else ""
        except ValueError:
            raise Malformed("Values of Upload-Metadata are base64 of UTF-8.", path=f"Upload-Metadata.{key}") from None
        if "\0" in found[key]:
            raise Invalid("Text must not hold the character NUL.", path=f"Upload-Metadata.{key}")
    return found


def parse_number(header: str, name: str) -> int:
    """Read a natural number. Raises: Malformed."""
    if _NUMBER.fullmatch(header) is None:
        raise Malformed(f"{name} is a natural number.", path=name)
    return int(header)


def parse_checksum(header: str) -> Checksum | None:
    """Read `algorithm base64`. Raises: Malformed, also for an algorithm that isn't offered (tus: 400)."""
    if not header:
        return None
    algorithm, _, text = header.partition(" ")
    if algorithm not in ALGORITHMS:
        raise Malformed(f"Checksums are of {', '.join(ALGORITHMS)}.", path="Upload-Checksum")
    try:
        return Checksum(algorithm=algorithm, digest=a2b_base64(text.strip(), strict_mode=True))
    except ValueError:
        raise Malformed("Upload-Checksum is an algorithm and a base64 digest.", path="Upload-Checksum") from None


def parse_concat(header: str) -> tuple[bool, tuple[str, ...]]:
    """Read `partial` or `final;url url`; return whether it is partial, and the ids of the parts. Raises: Malformed."""
    if not header:
        return False, ()
    if header == "partial":
        return True, ()
    kind, _, urls = header.partition(";")
    parts = tuple(url.rstrip("/").rpartition("/")[2] for url in urls.split())
    if kind != "final" or not parts or len(parts) > MAX_PARTS or not all(_ID.fullmatch(part) for part in parts):
        raise Malformed(f"Upload-Concat is `partial` or `final;` and up to {MAX_PARTS} URLs.", path="Upload-Concat")
    return False, parts


def http_date(at_us: int) -> bytes:
    """Write a time as RFC 9110 section 5.6.7 asks."""
    return formatdate(at_us / US_PER_S, usegmt=True).encode()


def options(max_bytes: int) -> Headers:
    """Return what OPTIONS tells of this server."""
    return [
        RESUMABLE,
        (b"tus-version", VERSION.encode()),
        (b"tus-extension", EXTENSIONS.encode()),
        (b"tus-max-size", b"%d" % max_bytes),
        (b"tus-checksum-algorithm", ",".join(ALGORITHMS).encode()),
    ]
