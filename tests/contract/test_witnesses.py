"""Witnesses cosign checkpoints: taken in, kept, served, and what they vouch for is told from what they don't."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.contract.test_compliance_evidence import AUDITOR, add, checkpoint, get
from tests.independent.c2sp import PLAIN, head_of, key_line, open_note, split_note
from tests.independent.witness import Witness

from sealwire.cli.audit import Keys, verify_source
from sealwire.contracts.audit_log import LogQuery
from sealwire.contracts.witness import CheckpointUnknown, Cosignatures, NotCosigned
from sealwire.kit.clock import SystemClock
from sealwire.kit.config import SettingError
from sealwire.kit.problem import Invalid
from sealwire.runtime import settings
from sealwire.services.compliance.config import ComplianceConfig
from sealwire.services.compliance.tiles import BundleAddress, path_of, tiles_of
from sealwire.testing.compliance import ComplianceRoom, open_compliance

W1, W2 = Witness("witness.example/w1"), Witness("witness.example/w2")
STRANGER = Witness("stranger.example")
CONFIG = ComplianceConfig(witnesses=[W1.vkey, W2.vkey], checkpoint_every_s=3600)


@asynccontextmanager
async def room_of(folder: Path):
    async with open_compliance(folder, config=CONFIG) as room:
        yield room


async def cosign(room: ComplianceRoom, *witnesses: Witness, at_s: int | None = None) -> bytes:
    """Have the newest checkpoint cosigned; return the note as it is served then."""
    note = (await checkpoint(room)).checkpoint.encode()
    lines = "".join(witness.sign(split_note(note)[0], at_s) for witness in witnesses)
    kept = await room.service.cosign(AUDITOR, Cosignatures(note=note.decode() + lines))
    return kept.checkpoint.encode()


async def test_cosignatures_are_kept_and_served_byte_by_byte(tmp_path: Path) -> None:
    async with room_of(tmp_path) as room:
        await add(room, 300)
        with pytest.raises(NotCosigned):
            await room.service.cosigned(AUDITOR, LogQuery())
        assert (await get(room, "checkpoint/cosigned")).status == 404
        await cosign(room, W1, at_s=1_700_000_000)
        await cosign(room, W1, at_s=1_600_000_000)  # an older one changes nothing
        note = await cosign(room, STRANGER, W2)
        assert (await get(room, "checkpoint/cosigned")).body == note == (await get(room, "checkpoint")).body
        await add(room, 50, 300)
        assert (await checkpoint(room)).cosigned.encode() == note
    async with room_of(tmp_path) as room:
        served = await get(room, "checkpoint/cosigned")
        assert served.body == note
        assert served.headers["content-type"] == "text/plain; charset=utf-8"
        newest = await checkpoint(room)
        assert (newest.tree_size, newest.cosigned.encode()) == (350, note)
    _, lines = split_note(note)
    assert [name for name, _, _ in lines] == ["sealwire.local/audit/acme", W1.name, W2.name], "no stranger among them"
    for vkey in (newest.first_key, W1.vkey, W2.vkey):
        assert head_of(open_note(note, vkey)).size == 300
    assert lines[1][2][:8] == (1_700_000_000).to_bytes(8, "big")


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda note: note, Invalid),
        (lambda note: note + STRANGER.sign(split_note(note.encode())[0]), Invalid),
        (lambda note: note + W1.sign(b"another text\n"), Invalid),
        (lambda note: note + W1.sign(split_note(note.encode())[0], 2**63), Invalid),
        (lambda note: note + W1.sign(split_note(note.encode())[0], SystemClock().now_us() // 10**6 + 7200), Invalid),
        (lambda note: "no note at all", Invalid),
        (lambda note: other_size(note), CheckpointUnknown),
        (lambda note: note.replace("/acme\n", "/other\n", 1), CheckpointUnknown),
    ],
    ids=["no line", "a stranger's", "of another text", "after time", "ahead", "no note", "size", "log"],
)
async def test_what_no_witness_saw_is_refused(
    tmp_path: Path, make: Callable[[str], str], problem: type[Exception]
) -> None:
    async with room_of(tmp_path) as room:
        await add(room, 3)
        note = make((await checkpoint(room)).checkpoint)
        with pytest.raises(problem):
            await room.service.cosign(AUDITOR, Cosignatures(note=note))
        with pytest.raises(NotCosigned):
            await room.service.cosigned(AUDITOR, LogQuery())


def other_size(note: str) -> str:
    text = note.replace("\n3\n", "\n2\n", 1)
    return text + W1.sign(split_note(text.encode())[0])


def test_a_key_that_is_no_witnesss_is_no_setting(tmp_path: Path) -> None:
    plain = key_line("log", PLAIN, Ed25519PrivateKey.generate().public_key().public_bytes_raw())
    twin = Witness("witness.example/twin")
    twin.private = W1.private
    for keys in (["nonsense"], [plain], [W1.vkey, twin.vkey]):
        with pytest.raises(SettingError, match=r"compliance\.witnesses"):
            settings.load(flags={"compliance": {"witnesses": keys}}, env={}, file=tmp_path / "none.toml")


# ---- what the verdict says


@pytest.fixture
async def evidence(tmp_path: Path) -> dict[str, Path]:
    """A log of 600 records, of which a witness saw 400, in every form; and key files."""
    folder = tmp_path / "evidence"
    folder.mkdir()
    async with open_compliance(tmp_path / "log", config=CONFIG) as room:
        await add(room, 400)
        await cosign(room, W1)
        await add(room, 200, 400)
        head = await checkpoint(room)
        files = {
            "export": (await get(room, "export?manifest=true")).body,
            "part": (await get(room, "export?manifest=true&to_seq=500")).body,
            "bundle": (await get(room, "evidence?from_seq=390&to_seq=410")).body,
            "below": (await get(room, "evidence?from_seq=1&to_seq=10")).body,
            "held": head.cosigned.encode(),
            "plain": (await get(room, "export")).body,
            "log.key": head.first_key.encode(),
            "w1.key": W1.vkey.encode(),
            "w2.key": W2.vkey.encode(),
            "tiles/checkpoint": head.checkpoint.encode(),
            "tiles/keys.json": msgspec.json.encode(Keys(head.first_key, head.rotations, head.cosigned)),
        }
        bundles = [BundleAddress(n, min(256, 600 - n * 256)) for n in range(3)]
        for address in [*tiles_of(600), *bundles]:
            files[f"tiles/tile/{path_of(address)}"] = (await get(room, f"tile/{path_of(address)}")).body
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return {name.partition("/")[0]: folder / name.partition("/")[0] for name in files}


def verdict(capsys: Any, evidence: dict[str, Path], source: str, witness: str = "w1.key", held: str = "") -> Any:
    options: dict[str, Any] = {
        "key": evidence["log.key"],
        "checkpoints": [evidence[held]] if held else [],
        "witnesses": [evidence[witness]],
    }
    code = verify_source(evidence[source], as_json=True, **options)
    found = json.loads(capsys.readouterr().out)
    assert code == (0 if found["ok"] else 1)
    verify_source(evidence[source], as_json=False, **options)
    found["said"] = capsys.readouterr().out
    return found


@pytest.mark.parametrize(
    ("source", "held", "records"), [("export", "", 600), ("tiles", "", 600), ("plain", "held", 600), ("bundle", "", 21)]
)
def test_the_verdict_says_what_the_witness_covers(
    capsys: Any, evidence: dict[str, Path], source: str, held: str, records: int
) -> None:
    found = verdict(capsys, evidence, source, held=held)
    assert (found["ok"], found["fault"]) == (found["covered"] == records, None)
    assert (found["records"], found["witnessed"]) == (records, {W1.name: 400})
    if found["covered"] == 400:
        assert "No signed checkpoint covers seq 401 to 600" in found["said"], "not even the log's own"
    else:
        assert "seq 1 to 400" in found["said"]
        assert "nothing above seq 400: the log's own key alone covers those records" in found["said"]
    other = verdict(capsys, evidence, source, "w2.key", held)
    assert (other["ok"], other["witnessed"], other["fault"]["kind"]) == (False, {}, "checkpoint")


def test_of_records_that_are_all_witnessed_nothing_more_is_said(capsys: Any, evidence: dict[str, Path]) -> None:
    found = verdict(capsys, evidence, "below", held="held")
    assert (found["ok"], found["witnessed"]) == (True, {W1.name: 400})
    assert "own key" not in found["said"]


def test_an_export_that_ends_before_the_log_is_covered_as_far_as_a_checkpoint_in_it(
    capsys: Any, evidence: dict[str, Path]
) -> None:
    found = verdict(capsys, evidence, "part")
    assert (found["ok"], found["records"], found["covered"]) == (False, 500, 400), found["fault"]
    assert found["fault"] is None
    assert "No signed checkpoint covers seq 401 to 500" in found["said"]


def test_a_note_of_another_log_gives_no_bundle_a_witness(capsys: Any, evidence: dict[str, Path]) -> None:
    """The witness cosigned it, and nothing ties it to these records."""
    foreign = b"elsewhere\n400\n" + b"A" * 43 + b"=\n"
    evidence["held"].write_bytes(foreign + b"\n" + W1.sign(foreign).encode())
    document = json.loads(evidence["bundle"].read_bytes())
    del document["cosigned"], document["consistency"]
    evidence["bundle"].write_bytes(msgspec.json.encode(document))
    found = verdict(capsys, evidence, "bundle", held="held")
    assert (found["ok"], found["witnessed"], found["fault"]["kind"]) == (False, {}, "checkpoint")


@pytest.mark.parametrize("change", ["consistency", "cosigned"])
def test_a_bundle_whose_checkpoint_does_not_continue_what_was_cosigned_is_a_fork(
    capsys: Any, evidence: dict[str, Path], change: str
) -> None:
    document = json.loads(evidence["bundle"].read_bytes())
    if change == "consistency":
        document["consistency"][0] = "0" * 64
    else:
        document["consistency"] = []
    evidence["bundle"].write_bytes(msgspec.json.encode(document))
    found = verdict(capsys, evidence, "bundle")
    assert (found["ok"], found["fault"]["kind"], found["witnessed"]) == (False, "forked", {})
