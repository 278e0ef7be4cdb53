"""Identifiers are UUIDv7: of their time, in its order, none twice, their chance spread over all its bits."""

from __future__ import annotations

import os
import time
from uuid import RFC_4122, UUID

from sealwire.kit.ids import new_id, random_hex


def test_ids_are_uuid_v7_of_their_time() -> None:
    before_ms = time.time_ns() // 1_000_000
    ids = [new_id() for _ in range(2_000)]
    after_ms = time.time_ns() // 1_000_000
    assert len(set(ids)) == len(ids)
    for text in ids:
        value = UUID(text)
        assert str(value) == text
        assert (value.version, value.variant) == (7, RFC_4122)
        assert before_ms <= value.int >> 80 <= after_ms


def test_every_bit_of_chance_is_drawn() -> None:
    values = [UUID(new_id()).int for _ in range(4_000)]
    for bit in [*range(62), *range(64, 76)]:
        ones = sum(value >> bit & 1 for value in values)
        assert 1_600 < ones < 2_400, f"bit {bit}"  # further off than 12 standard deviations: never


def test_two_processes_draw_different_ids() -> None:
    new_id()
    read, write = os.pipe()
    if os.fork() == 0:
        os.write(write, f"{new_id()[14:]} {random_hex()}".encode())
        os._exit(0)
    os.wait()
    theirs = os.read(read, 200).decode()
    os.close(read)
    os.close(write)
    assert theirs != f"{new_id()[14:]} {random_hex()}"
    assert theirs.split()[0] != new_id()[14:]
