"""Rules of files: names, types, ranges, the headers of tus, the scanner's window."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealwire.kit.problem import Problem
from sealwire.services.media.model import MAX_NAME_BYTES, content_disposition, media_type, safe_name
from sealwire.services.media.ranges import MAX_RANGES, Unsatisfiable, parse_range
from sealwire.services.media.scanning import EICAR, SignatureScanner
from sealwire.services.media.sniffing import SNIFF_BYTES, sniff
from sealwire.services.media.tus import http_date, parse_checksum, parse_concat, parse_metadata, parse_number

# ---- names


@given(st.text())
def test_a_safe_name_is_safe_and_stays_so(name: str) -> None:
    safe = safe_name(name)
    assert 0 < len(safe.encode()) <= MAX_NAME_BYTES
    assert not set(safe) & set('/\\:*?"<>|\0\r\n')
    assert safe not in (".", "..")
    assert safe_name(safe) == safe
    header = content_disposition(safe)
    assert header.startswith('attachment; filename="')
    assert header.isascii()
    assert header.isprintable()
    assert header.count('"') == 2


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("", "file"),
        (" . ", "file"),
        ("../../../etc/shadow", "shadow"),
        (r"C:\Windows\system32\cmd.exe", "cmd.exe"),
        ("invoice\u202egpj.exe", "invoicegpj.exe"),
        ("e\u0301.txt", "\u00e9.txt"),
        ("a" * 300 + ".tar", "a" * 251 + ".tar"),
        ("a" * 300, "a" * 255),
        ("\U0001f4a5" * 100 + ".png", "\U0001f4a5" * 62 + ".png"),
    ],
)
def test_names(name: str, safe: str) -> None:
    assert safe_name(name) == safe


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("image/PNG", "image/png"),
        ("text/plain; charset=utf-8", "text/plain"),
        ("", ""),
        ("text", ""),
        ("text/", ""),
        ("text/html\r\nx: y", ""),
        ("a/b/c", ""),
        ("x" * 80 + "/y", ""),
    ],
)
def test_types(text: str, kind: str) -> None:
    assert media_type(text) == kind


# ---- sniffing


@given(st.binary(max_size=600), st.sampled_from(["", "text/html", "image/svg+xml", "image/png", "text/javascript"]))
def test_nothing_is_ever_served_as_something_that_runs(data: bytes, claimed: str) -> None:
    kind = sniff(data, claimed)
    assert kind not in ("text/html", "image/svg+xml", "application/xhtml+xml")
    assert media_type(kind) == kind


@pytest.mark.parametrize(
    ("head", "claimed", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n", "text/plain", "image/png"),
        (b"RIFF\0\0\0\0WEBP", "", "image/webp"),
        (b"XXXX\0\0\0\0WEBP", "", "application/octet-stream"),
        (b"\0\0\0\x18ftypmp42", "", "video/mp4"),
        (b"\0\0\0\x18ftypheic", "image/jpeg", "image/heic"),
        (b"PK\x03\x04", "application/vnd.oasis.opendocument.text", "application/vnd.oasis.opendocument.text"),
        (b"PK\x03\x04", "image/png", "application/zip"),
        (b"%PDF-1.7", "text/html", "application/pdf"),
        (b"MZ\x90\0", "image/png", "application/x-msdownload"),
        (b"\x7fELF", "", "application/x-executable"),
        (b"hello", "text/markdown", "text/markdown"),
        (b"hello", "text/html", "text/plain"),
        (b"hello", "", "text/plain"),
        (b"hello", "image/png", "text/plain"),
        (b"\xef\xbb\xbf  <!DOCTYPE html>", "text/plain", "text/plain"),
        (b"<svg>", "image/svg+xml", "text/plain"),
        (b'{"a": 1}', "application/json", "application/json"),
        ("größe".encode() * 200, "text/csv", "text/csv"),
        (("x" * (SNIFF_BYTES - 1) + "ß").encode(), "text/csv", "text/csv"),
        (b"\xff\xfe\0", "image/jpeg", "application/octet-stream"),
        (b"\x01\x02", "application/x-dicom", "application/x-dicom"),
        (b"\x01\x02", "text/html", "application/octet-stream"),
        (b"", "", "application/octet-stream"),
    ],
)
def test_what_the_bytes_show_wins(head: bytes, claimed: str, kind: str) -> None:
    assert sniff(head, claimed) == kind


# ---- ranges


@given(st.text(max_size=40), st.integers(0, 1000))
def test_whatever_is_asked_only_bytes_of_the_file_are_meant(header: str, size: int) -> None:
    for text in (header, f"bytes={header}"):
        try:
            ranges = parse_range(text, size)
        except Unsatisfiable:
            continue
        assert len(ranges) <= MAX_RANGES
        assert all(0 <= start < end <= size for start, end in ranges)


@given(st.integers(1, 1000), st.integers(0, 2000), st.integers(0, 2000))
def test_single_ranges_are_what_rfc_9110_says(size: int, first: int, last: int) -> None:
    if last < first:
        assert parse_range(f"bytes={first}-{last}", size) == []
    elif first >= size:
        with pytest.raises(Unsatisfiable):
            parse_range(f"bytes={first}-{last}", size)
    else:
        assert parse_range(f"bytes={first}-{last}", size) == [(first, min(last + 1, size))]
    if first:
        assert parse_range(f"bytes=-{first}", size) == [(max(0, size - first), size)]


def test_many_or_overlapping_ranges_give_the_whole_file() -> None:
    assert parse_range("bytes=" + ",".join(["0-1"] * (MAX_RANGES + 1)), 1000) == []
    assert parse_range("bytes=0-,0-,0-", 1000) == []
    assert parse_range("bytes=0-99,200-299", 1000) == [(0, 100), (200, 300)]


# ---- tus


@given(
    st.dictionaries(
        st.text("abcdefgh_-", min_size=1, max_size=8), st.text(st.characters(exclude_characters="\0"), max_size=30)
    )
)
def test_metadata_round_trips(pairs: dict[str, str]) -> None:
    try:
        header = ", ".join(f"{key} {b64encode(value.encode()).decode()}" for key, value in pairs.items())
    except UnicodeEncodeError:
        return
    assert parse_metadata(header) == pairs


@given(st.text(max_size=60))
def test_no_header_breaks_the_parsers(header: str) -> None:
    for parse in (parse_metadata, parse_checksum, parse_concat, lambda text: parse_number(text, "Upload-Offset")):
        assert status_of(parse, header) in (200, 400, 422)


def status_of(parse: Callable[[str], object], header: str) -> int:
    try:
        parse(header)
    except Problem as problem:
        return problem.status
    return 200


def test_metadata_may_have_names_without_values() -> None:
    assert parse_metadata("is_confidential,filename YS5iaW4=") == {"is_confidential": "", "filename": "a.bin"}
    assert parse_metadata("") == {}


def test_concat() -> None:
    assert parse_concat("") == (False, ())
    assert parse_concat("partial") == (True, ())
    urls = "final;/files/a https://x.example/files/b /files/c/"
    assert parse_concat(urls) == (False, ("a", "b", "c"))
    for bad in ("final", "final;", "final;/", "Partial", "final;/a/../$"):
        with pytest.raises(Problem):
            parse_concat(bad)


def test_dates_are_those_of_http() -> None:
    assert http_date(784_111_777_000_000) == b"Sun, 06 Nov 1994 08:49:37 GMT"


# ---- scanning


@given(st.lists(st.integers(0, len(EICAR) + 200), max_size=6), st.integers(0, 100))
async def test_the_signature_is_found_however_it_is_cut(cuts: list[int], before: int) -> None:
    data = b"x" * before + EICAR + b"y" * 50
    session, at = SignatureScanner().begin(), 0
    for cut in [*sorted(cuts), len(data)]:
        await session.feed(data[at:cut])
        at = max(at, cut)
    assert await session.finish() == "EICAR-Test-File"


@given(st.lists(st.binary(max_size=80), max_size=8))
async def test_other_files_are_clean(pieces: list[bytes]) -> None:
    session = SignatureScanner().begin()
    for piece in pieces:
        await session.feed(piece)
    assert await session.finish() == ""


async def test_the_scanner_proves_itself() -> None:
    await SignatureScanner().check()
