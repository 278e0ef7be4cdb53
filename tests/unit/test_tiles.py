"""Tiles: each has one path, and a bundle gives back its entries."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealwire.services.compliance.tiles import (
    BundleAddress,
    BundleInvalid,
    TileAddress,
    TilePathInvalid,
    parse_path,
    path_of,
    read_bundle,
    tiles_of,
    width_in,
    write_bundle,
)

widths = st.integers(1, 256)
addresses = st.builds(TileAddress, st.integers(0, 63), st.integers(0, 10**12), widths) | st.builds(
    BundleAddress, st.integers(0, 10**12), widths
)


@pytest.mark.parametrize(
    ("address", "path"),
    [
        (TileAddress(0, 1234067), "0/x001/x234/067"),
        (TileAddress(1, 0), "1/000"),
        (TileAddress(63, 999, 1), "63/999.p/1"),
        (BundleAddress(1000, 255), "entries/x001/000.p/255"),
    ],
)
def test_known_paths(address: TileAddress | BundleAddress, path: str) -> None:
    assert path_of(address) == path
    assert parse_path(path) == address


@given(addresses)
def test_paths_round_trip(address: TileAddress | BundleAddress) -> None:
    assert parse_path(path_of(address)) == address


@pytest.mark.parametrize(
    "path",
    [
        *("", "0", "0/", "0/1", "0/0001", "0/x000/001", "64/000", "00/000", "0/001.p/0", "0/001.p/256", "0/001.p/01"),
        *("-1/000", "0/x1/000", "0/001/000", "entries/x001", "data/000", "0/../000", "0/٠٠٠", "0/000\n"),
        "0/" + "x001/" * 40 + "001",
    ],
)
def test_other_spellings_are_refused(path: str) -> None:
    with pytest.raises(TilePathInvalid):
        parse_path(path)


@given(st.text(max_size=30))
def test_no_text_breaks_the_reader(path: str) -> None:
    with contextlib.suppress(TilePathInvalid):
        assert path_of(parse_path(path)) == path


def test_the_tiles_of_the_specifications_example() -> None:
    found = tiles_of(70_000)
    assert sum(t.level == 0 and t.width == 256 for t in found) == 273
    assert [t for t in found if t.width < 256] == [
        TileAddress(0, 273, 112),
        TileAddress(1, 1, 17),
        TileAddress(2, 0, 1),
    ]
    assert tiles_of(256) == [TileAddress(0, 0), TileAddress(1, 0, 1)]
    assert tiles_of(0) == []


def test_width_in_a_tree() -> None:
    assert width_in(TileAddress(0, 273), 70_000) == 112
    assert width_in(TileAddress(1, 1), 70_000) == 17
    assert width_in(TileAddress(2, 1), 70_000) == 0
    assert width_in(BundleAddress(0), 70_000) == 256


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_bundles_round_trip(entries: list[bytes]) -> None:
    bundle = write_bundle(entries)
    assert read_bundle(bundle) == entries
    if bundle:
        with pytest.raises(BundleInvalid):
            read_bundle(bundle + b"\0")


def test_the_longest_entry() -> None:
    longest = bytes(65_535)
    assert read_bundle(write_bundle([longest])) == [longest]
    with pytest.raises(BundleInvalid):
        write_bundle([longest + b"x"])
    with pytest.raises(BundleInvalid):
        read_bundle(b"\0\2a")
