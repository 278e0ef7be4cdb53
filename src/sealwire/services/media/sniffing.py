"""What a file is, by its first bytes: what it claims to be is a hint only."""

from __future__ import annotations

from typing import Final

SNIFF_BYTES: Final = 512

OCTETS: Final = "application/octet-stream"
_MAGIC: Final = (
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"GIF87a", "image/gif"),
    (0, b"GIF89a", "image/gif"),
    (8, b"WEBP", "image/webp"),
    (0, b"BM", "image/bmp"),
    (0, b"II*\x00", "image/tiff"),
    (0, b"MM\x00*", "image/tiff"),
    (4, b"ftypavif", "image/avif"),
    (4, b"ftypheic", "image/heic"),
    (4, b"ftypqt", "video/quicktime"),
    (4, b"ftypM4A", "audio/mp4"),
    (4, b"ftyp", "video/mp4"),
    (0, b"\x1aE\xdf\xa3", "video/webm"),
    (8, b"AVI ", "video/x-msvideo"),
    (8, b"WAVE", "audio/wav"),
    (0, b"ID3", "audio/mpeg"),
    (0, b"\xff\xfb", "audio/mpeg"),
    (0, b"fLaC", "audio/flac"),
    (0, b"OggS", "application/ogg"),
    (0, b"%PDF-", "application/pdf"),
    (0, b"PK\x03\x04", "application/zip"),
    (0, b"PK\x05\x06", "application/zip"),
    (0, b"\x1f\x8b\x08", "application/gzip"),
    (0, b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
    (0, b"Rar!\x1a\x07", "application/vnd.rar"),
    (0, b"(\xb5/\xfd", "application/zstd"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "application/x-ole-storage"),
    (0, b"\x7fELF", "application/x-executable"),
    (0, b"MZ", "application/x-msdownload"),
    (0, b"\xcf\xfa\xed\xfe", "application/x-mach-binary"),
    (0, b"\xfe\xed\xfa\xcf", "application/x-mach-binary"),
    (0, b"SQLite format 3\x00", "application/vnd.sqlite3"),
)
_RIFF: Final = frozenset({"image/webp", "video/x-msvideo", "audio/wav"})
# Containers whose claimed inner type we believe: the outer bytes can't tell.
_INSIDE: Final = {
    "application/zip": (
        "application/vnd.openxmlformats-officedocument.",
        "application/vnd.oasis.opendocument.",
        "application/epub+zip",
        "application/java-archive",
    ),
    "application/x-ole-storage": ("application/msword", "application/vnd.ms-"),
    "application/ogg": ("audio/ogg", "video/ogg", "audio/opus"),
    "video/webm": ("audio/webm", "video/x-matroska"),
    "video/mp4": ("audio/mp4",),
}
_ACTIVE: Final = (b"<!doctype html", b"<html", b"<script", b"<head", b"<body", b"<iframe", b"<svg", b"<?xml")


def sniff(head: bytes, claimed: str) -> str:
    """Return the content type to store, from the first bytes (SNIFF_BYTES at most) and what the uploader claimed.

    What the bytes show wins. Text stays the text it claims to be, unless it is markup that a browser would run: that is
    served as plain text. What nobody knows is `application/octet-stream`, unless the claim is of no harm.
    """
    head = head[:SNIFF_BYTES]
    found = _by_magic(head)
    if found is not None:
        believed = _INSIDE.get(found, ())
        return claimed if any(claimed.startswith(inner) for inner in believed) else found
    if _is_text(head):
        start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
        if start.startswith(_ACTIVE) or claimed in ("text/html", "image/svg+xml") or "xhtml" in claimed:
            return "text/plain"
        harmless = claimed.startswith("text/") or claimed in ("application/json", "application/x-ndjson")
        return claimed if harmless else "text/plain"
    if claimed.startswith(("image/", "text/")) or "html" in claimed or "xml" in claimed or "script" in claimed:
        return OCTETS  # it isn't what it claims
    return claimed or OCTETS


def _by_magic(head: bytes) -> str | None:
    for at, magic, kind in _MAGIC:
        if head[at : at + len(magic)] == magic and (kind not in _RIFF or head[:4] == b"RIFF"):
            return kind
    return None


def _is_text(head: bytes) -> bool:
    """Whether it is UTF-8 without control characters other than white space (a cut character at the end is fine)."""
    if not head or b"\0" in head:
        return False
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as fault:
        if fault.start < len(head) - 3:
            return False
        text = head[: fault.start].decode("utf-8")
    return bool(text) and not any(ch < " " and ch not in "\t\n\r\f\x1b" for ch in text)
