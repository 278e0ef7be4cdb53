"""Streaming segments: round trips in any cutting, random access, and every kind of tampering refused."""

from __future__ import annotations

import os
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealwire.kit import segments
from sealwire.kit.envelopes import EnvelopeRefused, SealingKey
from sealwire.kit.segments import (
    CHUNK_BYTES,
    HEADER_BYTES,
    SEALED_CHUNK_BYTES,
    SegmentOpener,
    SegmentSealer,
    chunk_count,
    header_key_id,
    sealed_bytes,
    span,
)

KEY_ID = bytes(range(16))
KEY = SealingKey(key_id=KEY_ID, key=bytes(range(32)))
OTHER_KEY = SealingKey(key_id=KEY_ID, key=bytes(32))
sizes = st.one_of(
    st.integers(0, 4),
    st.integers(0, 3 * CHUNK_BYTES + 5),
    st.sampled_from([CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES]),
)


def seal(data: bytes, cuts: list[int] | None = None, context: bytes = b"here", key: SealingKey = KEY) -> bytes:
    sealer = SegmentSealer(key=key, context=context)
    out, at = [sealer.header], 0
    for cut in sorted(cuts or []):
        out.append(sealer.update(data[at:cut]))
        at = max(at, cut)
    out.append(sealer.update(data[at:]))
    out.append(sealer.finish())
    return b"".join(out)


def open_all(segment: bytes, plain_bytes: int, context: bytes = b"here", key: SealingKey = KEY) -> bytes:
    opener = SegmentOpener(key=key, header=segment[:HEADER_BYTES], context=context, plain_bytes=plain_bytes)
    return b"".join(opener.chunks(0, chunk_count(plain_bytes) - 1, segment[HEADER_BYTES:]))


@settings(max_examples=40, deadline=None)
@given(sizes, st.lists(st.integers(0, 3 * CHUNK_BYTES), max_size=6))
def test_a_segment_opens_to_what_was_sealed_however_it_came(size: int, cuts: list[int]) -> None:
    data = os.urandom(size)
    segment = seal(data, cuts)
    assert len(segment) == sealed_bytes(size)
    assert header_key_id(segment[:HEADER_BYTES]) == KEY_ID
    assert open_all(segment, size) == data


@settings(max_examples=40, deadline=None)
@given(sizes.filter(bool), st.data())
def test_any_range_opens_from_its_chunks_alone(size: int, draw: st.DataObject) -> None:
    data = os.urandom(size)
    segment = seal(data)
    start = draw.draw(st.integers(0, size - 1))
    end = draw.draw(st.integers(start + 1, size))
    where = span(size, start, end)
    assert where.end - where.start <= (end - start) + 2 * SEALED_CHUNK_BYTES
    opener = SegmentOpener(key=KEY, header=segment[:HEADER_BYTES], context=b"here", plain_bytes=size)
    plain = b"".join(opener.chunks(where.first, where.last, segment[where.start : where.end]))
    skip = start - where.first * CHUNK_BYTES
    assert plain[skip : skip + end - start] == data[start:end]


@given(st.integers(0, 10), st.integers(-2, 12), st.integers(-2, 12))
def test_a_range_outside_is_refused(size: int, start: int, end: int) -> None:
    if not 0 <= start < end <= size:
        with pytest.raises(ValueError, match="outside"):
            span(size, start, end)


def test_every_flipped_bit_is_refused() -> None:
    segment = seal(b"hello world")
    for at in range(len(segment)):
        for bit in range(8):
            changed = segment[:at] + bytes((segment[at] ^ (1 << bit),)) + segment[at + 1 :]
            with pytest.raises(EnvelopeRefused):
                open_all(changed, 11)


def parts(segment: bytes) -> tuple[bytes, list[bytes]]:
    body = segment[HEADER_BYTES:]
    return segment[:HEADER_BYTES], [
        body[at : at + SEALED_CHUNK_BYTES] for at in range(0, len(body), SEALED_CHUNK_BYTES)
    ]


def test_cut_moved_doubled_and_spliced_chunks_are_refused() -> None:
    size = 3 * CHUNK_BYTES
    header, (a, b, c) = parts(seal(os.urandom(size)))
    _, (x, _, z) = parts(seal(os.urandom(size)))
    for chunks, claimed in (
        ([a, b], size - CHUNK_BYTES),  # truncated at a chunk's border, size adjusted to fit
        ([a, b, c[:-1]], size),
        ([a, b, c[:-1]], size - 1),
        ([a, c], size - CHUNK_BYTES),
        ([b, a, c], size),
        ([a, a, c], size),
        ([a, b, b], size),
        ([a, b, c, c], size + CHUNK_BYTES),
        ([x, b, c], size),
        ([a, b, z], size),
        ([a, b, c, b""], size + 1),
    ):
        with pytest.raises(EnvelopeRefused):
            open_all(header + b"".join(chunks), claimed)
    with pytest.raises(EnvelopeRefused):
        open_all(header + a + b + c + b"tail", size)


def test_another_key_context_or_header_is_refused() -> None:
    segment = seal(b"data")
    other = seal(b"data")
    for attempt in (
        lambda: open_all(segment, 4, key=OTHER_KEY),
        lambda: open_all(segment, 4, context=b"there"),
        lambda: open_all(other[:HEADER_BYTES] + segment[HEADER_BYTES:], 4),
        lambda: open_all(segment[:40], 4),
    ):
        with pytest.raises(EnvelopeRefused):
            attempt()


def test_two_segments_of_the_same_bytes_share_nothing() -> None:
    one, two = seal(bytes(100)), seal(bytes(100))
    assert one[18:] != two[18:]
    assert not {one[i : i + 16] for i in range(18, 80)} & {two[i : i + 16] for i in range(18, 80)}


def test_nothing_can_follow_the_end() -> None:
    sealer = SegmentSealer(key=KEY, context=b"c")
    sealer.update(b"the last of it")
    sealer.finish()
    assert not any(sealer._buffer), "what was held back is wiped"
    for more in (lambda: sealer.update(b"x"), sealer.finish):
        with pytest.raises(ValueError, match="finished"):
            more()


def test_memory_stays_flat() -> None:
    sealer = SegmentSealer(key=KEY, context=b"c")
    block = bytes(50_000)
    tracemalloc.start()
    for _ in range(200):  # 10 MB
        sealer.update(block)
    sealer.finish()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * CHUNK_BYTES


def test_the_counter_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "MAX_CHUNKS", 2)
    sealer = SegmentSealer(key=KEY, context=b"c")
    sealer.update(bytes(2 * CHUNK_BYTES + 1))
    with pytest.raises(ValueError, match="2\\^32"):
        sealer.finish()


def test_a_wiped_key_seals_and_opens_nothing() -> None:
    key = SealingKey(key_id=KEY_ID, key=bytes(32))
    segment = seal(b"data", key=key)
    key.wipe()
    for attempt in (lambda: seal(b"data", key=key), lambda: open_all(segment, 4, key=key)):
        with pytest.raises(EnvelopeRefused):
            attempt()


def test_a_key_that_another_thread_wipes_meanwhile_is_not_taken_for_one_of_zeros(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Snapshots are sealed in threads; the ring that lends the key wipes it when its time is over."""
    key = SealingKey(key_id=KEY_ID, key=bytes(range(32)))
    header = SegmentSealer(key=key, context=b"here").header
    derivation = segments.HKDF

    def wiped_first(*given: object) -> object:
        key.wipe()
        return derivation(*given)  # type: ignore[arg-type]  # what the product gives

    monkeypatch.setattr(segments, "HKDF", wiped_first)
    with pytest.raises(EnvelopeRefused):
        SegmentSealer(key=key, context=b"here")
    key = SealingKey(key_id=KEY_ID, key=bytes(range(32)))
    with pytest.raises(EnvelopeRefused):
        SegmentOpener(key=key, header=header, context=b"here", plain_bytes=1)
