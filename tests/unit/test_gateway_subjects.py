"""The gateway's part of an erasure: at its end the spool holds nothing of the person, and every cache has heard."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

import pytest
from tests.unit.test_spool import Log, entry, written

from sealwire.contracts.custody import SubjectChanges, SubjectErasure, SubjectRestriction
from sealwire.kit.caller import service_caller
from sealwire.kit.clock import SystemClock
from sealwire.kit.envelopes import SealingKey
from sealwire.kit.problem import Unavailable
from sealwire.services.gateway.spool import RecordSpool, SpoolConfig
from sealwire.services.gateway.spool_file import numbers_in
from sealwire.services.gateway.subjects import SubjectTraces

COMPLIANCE = service_caller("compliance", "acme")
ERASURE = SubjectErasure(job_id="job-1", pseudonym="p-1")


class Caches:
    """Caches that have heard of the sessions that ended, or not."""

    def __init__(self) -> None:
        self.heard = True

    async def caught_up(self) -> bool:
        return self.heard


async def test_an_erasure_waits_for_the_records_that_were_put_before_it(tmp_path: Path) -> None:
    log = Log()
    log.open = False
    config = SpoolConfig(sync_every_s=0.002, wait_s=0.004)
    spool = RecordSpool(
        folder=tmp_path / "spool", key=SealingKey(key_id=b"k" * 16, key=b"s" * 32), deliver=log.deliver,
        clock=SystemClock(), rng=Random(1), config=config,
    )  # fmt: skip
    await spool.start()

    async def the_spool() -> RecordSpool:
        return spool

    traces = SubjectTraces(spool=the_spool, caught_up=Caches().caught_up)
    try:
        spool.put(entry(1))
        await written(spool, 1)
        assert not (await traces.erase_subject(COMPLIANCE, "anna", ERASURE)).done
        assert not (await traces.erase_subject(COMPLIANCE, "anna", ERASURE)).done, "a record of the person lies there"
        log.open = True
        async with asyncio.timeout(30):
            while not (await traces.erase_subject(COMPLIANCE, "anna", ERASURE)).done:
                pass
        assert log.numbers == [1]
        assert numbers_in(tmp_path / "spool") == [], "its file is gone as well"
    finally:
        await spool.stop(grace_s=5)


async def test_no_right_is_carried_out_before_the_caches_heard_of_it(tmp_path: Path) -> None:
    caches = Caches()
    caches.heard = False
    spool = RecordSpool(
        folder=tmp_path / "spool", key=SealingKey(key_id=b"k" * 16, key=b"s" * 32), deliver=Log().deliver,
        clock=SystemClock(), rng=Random(1), config=SpoolConfig(),
    )  # fmt: skip

    async def the_spool() -> RecordSpool:
        return spool

    traces = SubjectTraces(spool=the_spool, caught_up=caches.caught_up)
    with pytest.raises(Unavailable):
        await traces.erase_subject(COMPLIANCE, "anna", ERASURE)
    with pytest.raises(Unavailable):
        await traces.rectify_subject(COMPLIANCE, "anna", SubjectChanges(job_id="job-2", display_name="Ann"))
    with pytest.raises(Unavailable):
        await traces.restrict_subject(COMPLIANCE, "anna", SubjectRestriction(restricted=True))
    caches.heard = True
    assert (await traces.erase_subject(COMPLIANCE, "anna", ERASURE)).done, "nothing waits, and every cache has heard"
