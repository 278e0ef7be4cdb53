"""The frame reader against the websockets library as oracle, over every way the network may cut the bytes."""

from __future__ import annotations

import contextlib
import itertools
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import CLIENT, Protocol

from sealwire.services.socket import frames
from sealwire.services.socket.frames import FrameFault, FrameReader

LIMIT = 70_000


def masked(opcode: int, payload: bytes, *, fin: bool = True) -> bytes:
    return Frame(Opcode(opcode), payload, fin).serialize(mask=True)


def read_all(chunks: list[bytes], limit: int = LIMIT) -> list[tuple[int, bytes]]:
    reader, got = FrameReader(limit), []
    for chunk in chunks:
        reader.feed(chunk)
        while (event := reader.next()) is not None:
            got.append(event)
    return got


def cut(data: bytes, borders: list[int]) -> list[bytes]:
    at = sorted({0, len(data), *(b % (len(data) + 1) for b in borders)})
    return [data[a:b] for a, b in itertools.pairwise(at)]


text = st.text(max_size=300).map(str.encode)
control = st.tuples(st.sampled_from([frames.PING, frames.PONG]), st.binary(max_size=125))
message = st.tuples(st.just(frames.TEXT), text) | st.tuples(st.just(frames.BINARY), st.binary(max_size=200))


@given(st.lists(message | control, max_size=6), st.lists(st.integers(0, 10_000), max_size=8), st.integers(1, 40))
@settings(max_examples=150, deadline=None)
def test_messages_come_out_as_they_went_in_however_cut_and_fragmented(
    events: list[tuple[int, bytes]], borders: list[int], piece: int
) -> None:
    wire = b""
    for opcode, payload in events:
        if opcode > 7:
            wire += masked(opcode, payload)
            continue
        parts = [payload[i : i + piece] for i in range(0, len(payload), piece)] or [b""]
        for i, part in enumerate(parts):
            wire += masked(opcode if i == 0 else frames.CONTINUATION, part, fin=i == len(parts) - 1)
            if i < len(parts) - 1:
                wire += masked(frames.PONG, b"between")  # a control frame may stand between fragments
    got = [e for e in read_all(cut(wire, borders)) if e != (frames.PONG, b"between")]
    assert got == [e for e in events if e != (frames.PONG, b"between")]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, LIMIT])
def test_every_length_form_is_read_and_written(size: int) -> None:
    payload = os.urandom(size)
    assert read_all([masked(frames.BINARY, payload)]) == [(frames.BINARY, payload)]
    client = Protocol(CLIENT)
    client.receive_data(frames.server_frame(payload, frames.BINARY))
    (event,) = client.events_received()
    assert isinstance(event, Frame)
    assert (event.opcode, bytes(event.data), event.fin) == (Opcode.BINARY, payload, True)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frames.server_frame(b"{}"), 1002),  # not masked
        (b"\xc1" + masked(1, b"x")[1:], 1002),  # a reserved bit
        (b"\x83" + masked(1, b"x")[1:], 1002),  # an unknown opcode
        (masked(0, b"x"), 1002),  # a continuation of nothing
        (masked(1, b"x", fin=False) + masked(1, b"y"), 1002),  # a message within a message
        (b"\x09" + masked(9, b"x")[1:], 1002),  # a fragmented ping
        (b"\x89\xfe\x00\x7e" + b"\0" * 130, 1002),  # a long ping
        (b"\x81\xff" + (LIMIT + 1).to_bytes(8, "big"), 1009),  # refused by its length alone
        (masked(1, b"x" * LIMIT, fin=False) + masked(0, b"y"), 1009),
        (masked(1, b"\xff"), 1007),
        (masked(1, b"\xe2\x82", fin=False) + masked(0, b"x"), 1007),
        (b"\x81\xff\xff" + b"\xff" * 7, 1009),
    ],
    ids=[
        "not-masked", "reserved-bit", "unknown-opcode", "continuation-of-nothing", "message-within-a-message",
        "fragmented-ping", "long-ping", "long-by-its-length", "long-by-its-parts", "not-utf-8", "not-utf-8-over-parts",
        "longest-length",
    ],
)  # fmt: skip
def test_what_breaks_the_framing_fails_with_its_code(data: bytes, code: int) -> None:
    with pytest.raises(FrameFault) as caught:
        read_all([bytes([b]) for b in data] if len(data) < 300 else [data])
    assert caught.value.code == code


def test_a_character_may_be_cut_by_fragments() -> None:
    euro = "€".encode()
    assert read_all([masked(1, euro[:1], fin=False) + masked(0, euro[1:])]) == [(frames.TEXT, euro)]


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=4))
@settings(max_examples=200, deadline=None)
def test_arbitrary_bytes_end_in_messages_or_a_fault_and_never_grow(data: bytes, borders: list[int]) -> None:
    reader = FrameReader(64)
    with contextlib.suppress(FrameFault):
        for chunk in cut(data, borders):
            reader.feed(chunk)
            while reader.next() is not None:
                pass
            assert reader.held_bytes <= 64 + 14 + 64


def test_close_frames_are_written_and_read() -> None:
    reason = "ü" * 100
    frame = frames.close_frame(3005, reason)
    assert len(frame) == 2 + 2 + 122
    assert Close.parse(frame[2:]) == Close(3005, "ü" * 61)
    assert frames.close_code(frame[2:]) == 3005
    assert frames.close_code(b"") == frames.NO_STATUS


@pytest.mark.parametrize(
    ("payload", "code"),
    [(b"\x03", 1002), (b"\x03\xed", 1002), (b"\x03\xee", 1002), (b"\x07\xd0", 1002), (b"\x0b\xb8\xff", 1007)],
)
def test_broken_close_frames_are_refused(payload: bytes, code: int) -> None:
    with pytest.raises(FrameFault) as caught:
        frames.close_code(payload)
    assert caught.value.code == code
