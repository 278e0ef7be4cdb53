"""Somebody changes a folder of tiles: the verifier names the first bad record and what was done."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.contract.test_compliance_streams import entry

from sealwire.contracts.audit_log import AuditBatch, VerifyQuery
from sealwire.kit.caller import service_caller
from sealwire.services.compliance.evidence import AuditRangeEmpty
from sealwire.services.compliance.notes import (
    ED25519,
    NoteSignature,
    TreeHead,
    VerifierKey,
    checkpoint_text,
    parse_checkpoint,
    parse_key,
    parse_note,
    write_note,
)
from sealwire.services.compliance.tile_folder import verify_tiles
from sealwire.services.compliance.tiles import BundleAddress, path_of, read_bundle, tiles_of, write_bundle
from sealwire.services.compliance.verify import Report
from sealwire.services.compliance.walk import Tampering
from sealwire.testing.compliance import ComplianceRoom, open_compliance

CALLER = service_caller("gateway", "acme")
RECORDS = 700


async def mirror(room: ComplianceRoom, folder: Path) -> VerifierKey:
    """Copy the log as tlog-tiles clients read it."""
    checkpoint = await room.service.checkpoint(CALLER)
    size = checkpoint.tree_size
    files = {"checkpoint": checkpoint.checkpoint.encode()}
    bundles = [BundleAddress(n, min(256, size - n * 256)) for n in range(-(-size // 256))]
    for address in [*tiles_of(size), *bundles]:
        with suppress(AuditRangeEmpty):
            files[f"tile/{path_of(address)}"] = await room.service.tile(CALLER, path_of(address))
    write(folder, files)
    return parse_key(checkpoint.first_key)


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


class Mirrored:
    """A folder of tiles and the key of its log."""

    def __init__(self, folder: Path, key: VerifierKey) -> None:
        self.folder, self.key = folder, key

    def verify(self, **more: object) -> Report:
        return verify_tiles(self.folder, keys=[self.key], **more)  # type: ignore[arg-type]  # as they are named

    def edit(self, seq: int, change: Callable[[list[bytes], int], None]) -> None:
        number = (seq - 1) // 256
        path = self.folder / "tile" / path_of(BundleAddress(number, min(256, RECORDS - number * 256)))
        entries = read_bundle(path.read_bytes())
        change(entries, (seq - 1) % 256)
        path.write_bytes(write_bundle(entries))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Mirrored:
    import asyncio

    folder = tmp_path_factory.mktemp("tiles")

    async def make() -> VerifierKey:
        async with open_compliance(folder) as room:
            for start in range(0, RECORDS, 70):
                await room.service.append(CALLER, AuditBatch(records=[entry(i) for i in range(start, start + 70)]))
            return await mirror(room, folder / "log")

    return Mirrored(folder / "log", asyncio.run(make()))


@pytest.fixture
def copied(original: Mirrored, tmp_path: Path) -> Mirrored:
    shutil.copytree(original.folder, tmp_path / "log")
    return Mirrored(tmp_path / "log", original.key)


def test_an_untouched_folder_holds(copied: Mirrored) -> None:
    seen: list[int] = []
    report = copied.verify(progress=seen.append)
    assert (report.ok, report.records, report.covered) == (True, RECORDS, RECORDS), report.fault
    assert seen[-1] == RECORDS
    held = (copied.folder / "checkpoint").read_text()
    assert copied.verify(checkpoints=[held]).ok


@pytest.mark.parametrize("seq", [1, 2, 255, 256, 257, 511, 513, 699, 700])
def test_any_changed_bit_of_an_entry_is_found_and_named(copied: Mirrored, seq: int) -> None:
    rng = Random(seq)
    number = (seq - 1) // 256
    path = copied.folder / "tile" / path_of(BundleAddress(number, min(256, RECORDS - number * 256)))
    before = path.read_bytes()
    entries = read_bundle(before)
    start = sum(len(e) + 2 for e in entries[: (seq - 1) % 256]) + 2
    length = len(entries[(seq - 1) % 256])
    for _ in range(12):
        changed = bytearray(before)
        bit = rng.randrange(start * 8, (start + length) * 8)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bytes(changed))
        report = copied.verify()
        assert (report.ok, report.first_bad_seq) == (False, seq), f"bit {bit}: {report.fault}"
        assert report.fault is not None
        assert report.fault.kind is Tampering.CHANGED, report.fault
    path.write_bytes(before)
    assert copied.verify().ok


@pytest.mark.parametrize("name", ["0/000", "0/001", "0/002.p/188", "1/000.p/2"])
def test_any_changed_bit_of_a_tile_is_found(copied: Mirrored, name: str) -> None:
    rng = Random(name)
    path = copied.folder / "tile" / name
    before = path.read_bytes()
    for _ in range(15):
        changed = bytearray(before)
        bit = rng.randrange(len(changed) * 8)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bytes(changed))
        report = copied.verify()
        assert not report.ok
        assert report.fault is not None
        level, number = (0, int(name[2:5])) if name[0] == "0" else (1, 0)
        seq = number * 256 + bit // 256 + 1 if level == 0 else bit // 256 * 256 + 1
        assert report.first_bad_seq == seq, report.fault
        # Of the very last record nobody vouches but the tree itself.
        assert report.fault.kind is (Tampering.CHANGED if seq == RECORDS else Tampering.TREE), report.fault
    path.write_bytes(before)


def test_any_changed_bit_of_the_checkpoint_is_found(copied: Mirrored) -> None:
    rng = Random(1)
    path = copied.folder / "checkpoint"
    before = path.read_bytes()
    for _ in range(200):
        changed = bytearray(before)
        bit = rng.randrange(len(changed) * 8)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bytes(changed))
        report = copied.verify()
        assert report.fault is not None
        assert report.fault.kind is Tampering.CHECKPOINT


def remove(entries: list[bytes], at: int) -> None:
    del entries[at]


def double(entries: list[bytes], at: int) -> None:
    entries.insert(at, entries[at])


def swap(entries: list[bytes], at: int) -> None:
    entries[at], entries[at + 1] = entries[at + 1], entries[at]


@pytest.mark.parametrize(
    ("seq", "change", "kind"),
    [
        (300, remove, Tampering.REMOVED),
        (256, remove, Tampering.REMOVED),
        (700, remove, Tampering.TRUNCATED),
        (300, double, Tampering.INSERTED),
        (300, swap, Tampering.REORDERED),
        (1, swap, Tampering.REORDERED),
    ],
)
def test_records_out_of_place(
    copied: Mirrored, seq: int, change: Callable[[list[bytes], int], None], kind: Tampering
) -> None:
    copied.edit(seq, change)
    report = copied.verify()
    assert report.fault is not None
    assert (report.fault.kind, report.first_bad_seq) == (kind, seq), report.fault


@pytest.mark.parametrize("end", [256, 700])
def test_an_entry_too_many_is_inserted(copied: Mirrored, end: int) -> None:
    copied.edit(end, lambda entries, at: entries.append(entries[at]))
    report = copied.verify()
    assert report.fault is not None
    assert (report.fault.kind, report.first_bad_seq) == (Tampering.INSERTED, end + 1), report.fault


@pytest.mark.parametrize(
    ("gone", "kind", "seq"),
    [
        (["entries/001", "0/001"], Tampering.REMOVED, 257),
        (["entries/002.p/188", "0/002.p/188"], Tampering.TRUNCATED, 513),
        (["entries/001"], Tampering.REMOVED, 257),
        (["0/001"], Tampering.TREE, 257),
        (["1/000.p/2"], Tampering.TREE, 1),
    ],
)
def test_missing_files(copied: Mirrored, gone: list[str], kind: Tampering, seq: int) -> None:
    for name in gone:
        (copied.folder / "tile" / name).unlink()
    report = copied.verify()
    assert report.fault is not None
    assert (report.fault.kind, report.first_bad_seq) == (kind, seq), report.fault


def test_a_folder_shorter_than_a_checkpoint_held_or_of_another_history(copied: Mirrored) -> None:
    private = Ed25519PrivateKey.generate()
    head = parse_checkpoint(parse_note((copied.folder / "checkpoint").read_text()).text)
    key = VerifierKey(name=head.origin, type=ED25519, public_key=private.public_key().public_bytes_raw())

    def signed(size: int, root: bytes) -> str:
        text = checkpoint_text(TreeHead(origin=head.origin, size=size, root=root))
        return write_note(text, [NoteSignature(key.name, key.key_id, private.sign(text.encode()))])

    both = [copied.key, key]
    longer = verify_tiles(copied.folder, keys=both, checkpoints=[signed(RECORDS + 5, b"r" * 32)])
    assert longer.fault is not None
    assert (longer.fault.kind, longer.first_bad_seq) == (Tampering.TRUNCATED, RECORDS + 1)
    forked = verify_tiles(copied.folder, keys=both, checkpoints=[signed(300, b"r" * 32)])
    assert forked.fault is not None
    assert forked.fault.kind is Tampering.FORKED


async def test_pruned_records_are_told_from_those_taken_out(tmp_path: Path) -> None:
    async with open_compliance(tmp_path) as room:
        await room.service.append(CALLER, AuditBatch(records=[entry(i) for i in range(RECORDS)]))
        await room.service.pruning.prune("acme", range(1, 301), run_id="run")
        assert (await room.service.verify(CALLER, VerifyQuery())).ok
        log = Mirrored(tmp_path / "log", await mirror(room, tmp_path / "log"))
    check_pruned(log)


def check_pruned(log: Mirrored) -> None:
    assert not (log.folder / "tile" / "entries" / "000").exists()
    report = log.verify()
    assert report.ok, report.fault
    assert report.pruned == [(1, 300)]
    path = log.folder / "tile" / "entries" / "001"
    entries = read_bundle(path.read_bytes())
    path.write_bytes(write_bundle([*entries[:60], b"", *entries[61:]]))
    report = log.verify()
    assert report.fault is not None
    assert (report.fault.kind, report.first_bad_seq) == (Tampering.REMOVED, 317)


async def test_beside_a_pruned_record_too_the_first_bad_one_is_named(tmp_path: Path) -> None:
    async with open_compliance(tmp_path) as room:
        await room.service.append(CALLER, AuditBatch(records=[entry(i) for i in range(RECORDS)]))
        await room.service.pruning.prune("acme", [3, 255, 256, 299, 300], run_id="run")
        log = Mirrored(tmp_path / "log", await mirror(room, tmp_path / "log"))
    assert log.verify().ok
    rng = Random(7)
    for seq in (2, 4, 254, 257, 298, 301):
        path = log.folder / "tile" / path_of(BundleAddress((seq - 1) // 256))
        before = path.read_bytes()
        entries = read_bundle(before)
        body = entries[(seq - 1) % 256]
        flips = [bytearray(body) for _ in range(8)]
        for flipped in flips:
            bit = rng.randrange(len(body) * 8)
            flipped[bit // 8] ^= 1 << bit % 8
        for changed in (*flips, b"{", body.replace(b'"seq":', b'"seq":1'), body.replace(b":", b": ", 1)):
            entries[(seq - 1) % 256] = bytes(changed)
            path.write_bytes(write_bundle(entries))
            report = log.verify()
            assert (report.ok, report.first_bad_seq) == (False, seq), (bytes(changed), report.fault)
            assert report.fault is not None
            assert report.fault.kind is Tampering.CHANGED, (bytes(changed), report.fault)
        path.write_bytes(before)
    assert log.verify().ok
