"""Killed at any step while checkpoints are thinned: the log says how many went, each counted once."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.contract.test_thinning import CALLER, CONFIG, DAY_US, HOUR_S, records_of_thinning, signed, sizes
from tests.fault.test_audit_steps import COMMON, DISK, run

from sealwire.contracts.audit_log import VerifyQuery
from sealwire.testing.clock import ManualClock
from sealwire.testing.compliance import open_compliance

TRIED = 10
THINNING = (
    COMMON
    + DISK
    + """
from tests.contract.test_thinning import CONFIG
from sealwire.testing.clock import ManualClock


async def main(folder):
    global counting
    clock = ManualClock()
    clock.advance(int(sys.argv[2]))
    async with open_compliance(folder, clock=clock, config=CONFIG) as room:
        counting = True
        await room.service.keeping.engine.tidy()
    say(f"steps {killer.count}")

# One interpreter for all: each life is a fork of its own, of which only what is on the disk is left.
for at in sys.argv[3:]:
    pid = os.fork()
    if not pid:
        killer = Killer(int(at))
        asyncio.run(main(folder / at))
        os._exit(0)
    os.waitpid(pid, 0)
"""
)


async def test_killed_at_any_step_of_thinning_each_checkpoint_is_counted_once(tmp_path: Path) -> None:
    clock = ManualClock()
    began_us = clock.now_us()
    (tmp_path / "log").mkdir()
    async with open_compliance(tmp_path / "log", clock=clock, config=CONFIG) as room:
        for _ in range(60):
            await signed(room)
            clock.advance(HOUR_S)
        before = await sizes(room)
    clock.advance(3 * DAY_US // 1_000_000)
    later_s = (clock.now_us() - began_us) // 1_000_000

    def lives(*ats: int) -> list[str]:
        for at in ats:
            shutil.copytree(tmp_path / "log", tmp_path / str(at))
            shutil.copytree(tmp_path / "log-exports", tmp_path / f"{at}-exports")
        code, said = run(THINNING, tmp_path, later_s, *ats)
        assert code == 0
        return said

    (whole,) = lives(10**9)
    steps = int(whole.split()[1])
    assert steps > TRIED, "there are steps to die at"
    ats = sorted({1 + i * (steps - 1) // TRIED for i in range(TRIED + 1)})
    assert len(lives(*ats)) <= 2, "they died"
    left = set()
    for at in (10**9, *ats):
        async with open_compliance(tmp_path / str(at), clock=clock, config=CONFIG) as room:
            left.add(len(before.keys() & (await sizes(room)).keys()))
            await room.service.keeping.engine.tidy()
            gone = len(before.keys() - (await sizes(room)).keys())
            assert gone > 50
            assert sum(await records_of_thinning(room, gone)) == gone, f"step {at}"
            assert (await room.service.verify(CALLER, VerifyQuery())).ok
    assert len(left) > 1, "some died before it was done, and some behind it"
