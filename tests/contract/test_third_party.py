"""The log as third parties read it: every byte of C2SP tlog-tiles, every proof, judged by code that is not ours.

Once by `tests/independent/c2sp.py`, written from the specifications alone; once by the Go project's own packages
(golang.org/x/mod/sumdb), unmodified.
"""

from __future__ import annotations

import gzip
import json
import subprocess
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.contract.test_compliance_evidence import AUDITOR, GATEWAY, add, checkpoint, get
from tests.independent import c2sp
from tests.independent.witness import Witness

from sealwire.contracts.audit_log import Actor, AuditBatch, AuditEntry
from sealwire.contracts.witness import Cosignatures
from sealwire.kit.http import App, Edge
from sealwire.services.compliance.config import ComplianceConfig
from sealwire.services.compliance.routes import routes
from sealwire.testing.asgi import ByName, ask
from sealwire.testing.compliance import ComplianceRoom, open_compliance
from sealwire.testing.golang import GoMissing, program

WITNESS = Witness("witness.example/w1")
CONFIG = ComplianceConfig(checkpoint_every_s=3600, witnesses=[WITNESS.vkey])
EXAMPLE = 70_000
"""The tree of the specification's own example."""
IMMUTABLE = "private, max-age=31536000, immutable"


class Client:
    """Reads a log by its paths, and judges what it gets with `c2sp` alone."""

    def __init__(self, room: ComplianceRoom, vkey: str) -> None:
        self.room, self.vkey = room, vkey
        self.files: dict[str, bytes] = {}
        self.leaves: list[bytes] = []

    async def get(self, path: str) -> bytes:
        answer = await get(self.room, path)
        assert answer.status == 200, (path, answer.status)
        kind = answer.headers["content-type"]
        assert kind == ("text/plain; charset=utf-8" if path == "checkpoint" else "application/octet-stream")
        assert answer.headers["cache-control"] == ("no-store" if path == "checkpoint" else IMMUTABLE)
        self.files[path] = answer.body
        return answer.body

    async def read(self) -> c2sp.Head:
        """Read and verify the whole log."""
        head = c2sp.head_of(c2sp.open_note(await self.get("checkpoint"), self.vkey))
        nodes: dict[int, list[bytes]] = {}
        for level, index, width in c2sp.tiles_in(head.size):
            tile = await self.get("tile/" + c2sp.tile_path(str(level), index, width))
            assert len(tile) == 32 * width
            nodes.setdefault(level, []).extend(tile[i : i + 32] for i in range(0, len(tile), 32))
        for index in range(-(-head.size // 256)):
            width = min(256, head.size - 256 * index)
            entries = c2sp.entries_in(await self.get("tile/" + c2sp.tile_path("entries", index, width)))
            assert [c2sp.leaf(entry) for entry in entries] == nodes[0][256 * index : 256 * index + width]
            self._check_chain(entries, 256 * index)
        for level in range(1, len(nodes)):
            below = nodes[level - 1]
            full = [c2sp.mth(below[i : i + 256]) for i in range(0, len(below) - len(below) % 256, 256)]
            assert nodes[level] == full, level
        self.leaves = nodes.get(0, [])
        assert c2sp.mth(self.leaves) == head.root
        return head

    def _check_chain(self, entries: list[bytes], first: int) -> None:
        """Each record names its number and the hash of the one before, as RFC 8785 JSON whose bytes are the entry."""
        for number, entry in enumerate(entries, first + 1):
            record = json.loads(entry)
            assert record["seq"] == number
            if number > 1 + first:
                assert record["prev_hash"] == sha256(entries[number - 2 - first]).hexdigest()

    async def prove(self, head: c2sp.Head, rng: Random, count: int) -> dict[str, list[Any]]:
        """Ask for proofs, check them and that what was changed is refused; return them."""
        given: dict[str, list[Any]] = {"inclusion": [], "consistency": []}
        for _ in range(count):
            size = rng.choice([head.size, rng.randint(1, head.size)])
            root = c2sp.mth(self.leaves[:size])
            index = rng.randrange(size)
            proof = (await get(self.room, f"proof/inclusion?seq={index + 1}&tree_size={size}")).json()
            path = [bytes.fromhex(text) for text in proof["hashes"]]
            leaf = self.leaves[index]
            assert c2sp.included(index, size, leaf, path, root)
            assert not c2sp.included(index, size, sha256(leaf).digest(), path, root)
            assert not path or not c2sp.included(index, size, leaf, path[:-1], root)
            given["inclusion"].append(proof)
            older = rng.randint(1, size)
            grown = (await get(self.room, f"proof/consistency?from={older}&to={size}")).json()
            path = [bytes.fromhex(text) for text in grown["hashes"]]
            before = c2sp.mth(self.leaves[:older])
            assert c2sp.consistent(older, size, before, root, path) if older < size else not path
            assert not c2sp.consistent(older, size, sha256(before).digest(), root, path)
            given["consistency"].append(grown)
        return given


def mirror(client: Client, folder: Path, proofs: dict[str, list[Any]]) -> list[str]:
    """Save what was read; return the Go verifier's command. Skips where it can't be had."""
    for name, content in client.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "proofs.json").write_text(json.dumps(proofs))
    try:
        verifier = program(Path(__file__).parents[1] / "go")
    except GoMissing as missing:
        pytest.skip(f"no verifier in Go: {missing}")
    return [str(verifier), client.vkey, str(folder), str(folder / "proofs.json")]


def judged(command: list[str]) -> tuple[int, str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 511, 700])
async def test_a_log_of_any_size_is_verified_by_others(tmp_path: Path, size: int) -> None:
    async with open_compliance(tmp_path / "log", config=CONFIG) as room:
        for start in range(0, size, 300):
            await add(room, min(300, size - start), start)
        head = await checkpoint(room)
        lines = WITNESS.sign(c2sp.split_note(head.checkpoint.encode())[0])
        await room.service.cosign(AUDITOR, Cosignatures(note=head.checkpoint + lines))
        client = Client(room, head.first_key)
        read = await client.read()
        assert read == ("sealwire.local/audit/acme", size, bytes.fromhex(head.root))
        c2sp.open_note(client.files["checkpoint"], WITNESS.vkey)
        proofs = await client.prove(read, Random(size), 12)
    command = mirror(client, tmp_path / "mirror", proofs)
    assert judged(command) == (0, f"{size} entries, 24 proofs\n")
    assert judged([*command, WITNESS.vkey])[0] == 0
    assert judged([*command, Witness("witness.example/w2").vkey])[0] == 1
    await flipped(client, tmp_path / "mirror", command, Random(size))


async def flipped(client: Client, folder: Path, command: list[str], rng: Random) -> None:
    """The Go verifier finds a changed bit in any file, so that what it said before says something."""
    for name in rng.sample(sorted(client.files), min(4, len(client.files))):
        changed = bytearray(client.files[name])
        at = changed.rindex(b"\n", 0, -1) if name == "checkpoint" else len(changed) * 8
        bit = rng.randrange(at)
        changed[bit // 8] ^= 1 << bit % 8
        (folder / name).write_bytes(changed)
        assert judged(command)[0] == 1, (name, bit)
        (folder / name).write_bytes(client.files[name])


@pytest.mark.timeout(180)
async def test_the_specifications_own_example_of_a_tree(tmp_path: Path) -> None:
    """70,000 records: 273 full tiles of level 0 and one of 112, a full one of level 1 and one of 17, one of level 2."""
    async with open_compliance(tmp_path / "log", config=CONFIG) as room:
        for start in range(0, EXAMPLE, 1_000):
            records = [
                AuditEntry(
                    audit_id=f"id-{i}", tenant_id="acme", actor=Actor(type="service", id="s"), action="a",
                    resource_type="r", created_at_us=1_000_000 + i,
                )
                for i in range(start, start + 1_000)
            ]  # fmt: skip
            await room.service.append(GATEWAY, AuditBatch(records=records))
        client = Client(room, (await checkpoint(room)).first_key)
        head = await client.read()
        widths = [(level, width) for level, _, width in c2sp.tiles_in(head.size)]
        assert {w: widths.count(w) for w in widths} == {
            (0, 256): 273, (0, 112): 1, (1, 256): 1, (1, 17): 1, (2, 1): 1,
        }  # fmt: skip
        proofs = await client.prove(head, Random(7), 3)
    assert judged(mirror(client, tmp_path / "mirror", proofs)) == (0, f"{EXAMPLE} entries, 6 proofs\n")


async def test_only_what_the_tree_has_is_served_and_under_one_path(tmp_path: Path) -> None:
    async with open_compliance(tmp_path / "log", config=CONFIG) as room:
        await add(room, 600)
        head = await checkpoint(room)
        partial = (await get(room, "tile/0/002.p/88")).body
        assert (await get(room, "tile/0/002.p/5")).body == partial[: 5 * 32], "of an earlier size of the tree"
        assert (await get(room, "tile/0/001.p/7")).body == (await get(room, "tile/0/001")).body[: 7 * 32]
        for path in (
            "0/002", "0/002.p/89", "0/002.p/256", "0/002.p/0", "0/002.p/088", "0/2.p/88", "00/001", "0/x000/001",
            "0/003.p/1", "1/000", "1/000.p/3", "2/000.p/1", "64/000", "-1/000", "entries/002", "entries/003.p/1",
            "0/001.p/", "entries/x000/000", "0/001/", "8/0/001", "data/001",
        ):  # fmt: skip
            assert (await get(room, f"tile/{path}")).status == 404, path
        people = ByName()
        people.callers["anna"] = AUDITOR
        app = App(routes(room.service, Edge(authenticate=people)))
        headers = {"authorization": "anna", "accept-encoding": "gzip, identity"}
        packed = await ask(app, "GET", "/compliance/audit/tile/entries/001", headers=headers)
        plain = await get(room, "tile/entries/001")
        assert (packed.headers["content-encoding"], packed.headers["vary"]) == ("gzip", "accept-encoding")
        assert "content-encoding" not in plain.headers
        assert gzip.decompress(packed.body) == plain.body
        assert len(packed.body) < len(plain.body) / 2
        assert head.tree_size == 600
