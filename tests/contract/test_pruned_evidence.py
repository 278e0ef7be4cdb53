"""A pruned record in a bundle of evidence proves that it was pruned, or the verdict is "not shown"."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.contract.test_compliance_evidence import GATEWAY, add, checkpoint, get
from tests.contract.test_compliance_streams import entry

from sealwire.contracts.audit_log import AuditBatch
from sealwire.kit.problem import Invalid
from sealwire.services.compliance.bundle import verify_bundle
from sealwire.services.compliance.chain import reread
from sealwire.services.compliance.merkle import leaf_hash
from sealwire.services.compliance.notes import VerifierKey, parse_key
from sealwire.services.compliance.verify import Report, verify_export
from sealwire.services.compliance.walk import Tampering
from sealwire.testing.compliance import open_compliance

PRUNED = [7, 8, 300]
ALONE = "evidence?from_seq=5&to_seq=9"
"""Two pruned records, and nothing of the range says that they were."""


@pytest.fixture
async def evidence(tmp_path: Path) -> tuple[Any, VerifierKey, list[bytes], str]:
    """A bundle, the key, the log as an export, and a checkpoint from before anything was pruned."""
    async with open_compliance(tmp_path) as room:
        await add(room, 600)
        before = (await checkpoint(room)).checkpoint
        await room.service.pruning.prune("acme", PRUNED[:2], run_id="run-1")
        await add(room, 10, 600)
        await room.service.pruning.prune("acme", PRUNED[2:], run_id="run-2")
        key = parse_key((await checkpoint(room)).first_key)
        bundle = json.loads((await get(room, ALONE)).body)
        lines = (await get(room, "export")).body.splitlines(keepends=True)
        return bundle, key, lines, before


def judged(bundle: Any, key: VerifierKey) -> Report:
    return verify_bundle(json.dumps(bundle).encode(), keys=[key])[0]


def test_what_a_run_pruned_is_shown_by_the_runs_own_record(evidence: Any) -> None:
    bundle, key, _, _ = evidence
    assert len(bundle["pruning"]) == 1, "the newest names what all before it named"
    said = bundle["pruning"][0]["record"]
    assert (said["resource_id"], said["metadata"]["pruned"]) == ("run-2", "7-8,300")
    report = judged(bundle, key)
    assert report.ok, report.fault
    assert (report.covered, report.pruned) == (5, [(7, 8)])


def nothing(bundle: Any) -> None:
    bundle["pruning"] = []


def older(bundle: Any) -> None:
    del bundle["pruning"]


def an_ordinary_record(bundle: Any) -> None:
    bundle["pruning"] = bundle["records"][:1]


def a_record_put_away(bundle: Any) -> None:
    """Somebody has a record vanish that is in the log, and gives its true leaf and proof."""
    body, stated = reread(json.dumps(bundle["records"][0]["record"]).encode())
    left = {"hash": stated, "leaf": leaf_hash(body).hex(), "seq": 5}
    bundle["records"][0] = {"pruned": left, "proof": bundle["records"][0]["proof"]}


@pytest.mark.parametrize(("change", "seq"), [(nothing, 7), (older, 7), (an_ordinary_record, 7), (a_record_put_away, 5)])
def test_what_no_run_says_is_not_shown_and_never_ok(evidence: Any, change: Callable[[Any], None], seq: int) -> None:
    bundle, key, _, _ = evidence
    change(bundle)
    report = judged(bundle, key)
    assert not report.ok
    assert report.fault is not None
    assert (report.fault.kind, report.fault.seq, report.covered) == (Tampering.NOT_SHOWN, seq, 0), report.fault


def test_a_run_that_never_was_is_found(evidence: Any) -> None:
    bundle, key, _, _ = evidence
    said = bundle["pruning"][0]["record"]
    said["metadata"]["pruned"] = "5,7-8,300"
    assert judged(bundle, key).fault.kind is Tampering.CHANGED  # type: ignore[union-attr]  # there is one
    said["hash"] = sha256(reread(json.dumps(said).encode())[0]).hexdigest()
    fault = judged(bundle, key).fault
    assert fault is not None
    assert (fault.kind, fault.seq) == (Tampering.CHANGED, said["seq"]), "it is not in the tree"


def test_what_nobody_signed_vouches_for_no_pruning(evidence: Any) -> None:
    """The records of pruning lie above the checkpoint held: the part below it is not all shown."""
    _, key, lines, before = evidence
    report = verify_export(lines, checkpoints=[before], keys=[key])
    assert report.fault is not None
    assert (report.fault.kind, report.fault.seq) == (Tampering.NOT_SHOWN, 7)


async def test_only_compliance_says_what_is_pruned(tmp_path: Path) -> None:
    async with open_compliance(tmp_path) as room:
        forged = msgspec.structs.replace(entry(1), action="audit.pruned", metadata={"pruned": "1-500"})
        with pytest.raises(Invalid):
            await room.service.append(GATEWAY, AuditBatch(records=[entry(0), forged]))
        assert await room.service.log_size(GATEWAY) == 0
