"""Errands in a data folder: what may be lost is nothing, least of all the order to give up a stolen key."""

from __future__ import annotations

from pathlib import Path

import pytest

from sealwire.kit.problem import Unavailable
from sealwire.runtime import errands
from sealwire.runtime.errands import Errand, Errands, Report


class Runner:
    """Does errands, or fails with what it is told to."""

    def __init__(self) -> None:
        self.fault: Exception | None = None
        self.done: list[str] = []

    async def __call__(self, errand: Errand) -> Report:
        if self.fault is not None:
            raise self.fault
        self.done.append(errand.kind)
        return Report(errand_id=errand.errand_id, key_ids=["k"])


@pytest.mark.parametrize("fault", [Unavailable("crypto is out"), OSError("disk full"), RuntimeError("a bug")])
async def test_a_start_that_can_not_give_up_a_stolen_key_is_none(tmp_path: Path, fault: Exception) -> None:
    run = Runner()
    errand = errands.ask(tmp_path, "rotate-signing", compromised=True)
    run.fault = fault
    with pytest.raises(type(fault)):
        await Errands(data=tmp_path, run=run).look_first()
    assert errands.waiting(tmp_path, "rotate-signing") == errand, "it waits on"
    run.fault = None
    await Errands(data=tmp_path, run=run).look_first()
    assert run.done == ["rotate-signing"]
    assert errands.waiting(tmp_path, "rotate-signing") is None


async def test_who_waits_for_an_answer_is_told_what_failed(tmp_path: Path) -> None:
    run = Runner()
    run.fault = Unavailable("crypto is out")
    at_work = Errands(data=tmp_path, run=run)
    for compromised in (True, False):
        errand = errands.ask(tmp_path, "rotate-signing", compromised=compromised)
        await at_work.look()
        report = errands.wait(tmp_path, errand, timeout_s=1)
        assert report is not None
        assert report.error == "crypto is out"
        assert errands.waiting(tmp_path, "rotate-signing") is None, "whoever asked asks again"
    errands.ask(tmp_path, "rotate-signing", compromised=False)
    await at_work.look_first()  # a planned one that fails keeps nobody from starting


async def test_what_can_not_be_read_is_not_thrown_away(tmp_path: Path) -> None:
    """Another user of the machine left it: the command said that it is queued."""
    run = Runner()
    folder = tmp_path / errands.FOLDER / "rotate-signing.json"
    folder.mkdir(parents=True)  # as unreadable as a file of somebody else, for root too
    at_work = Errands(data=tmp_path, run=run)
    await at_work.look()
    await at_work.look()
    assert folder.exists()
    with pytest.raises(OSError, match="rotate-signing"):
        await at_work.look_first()
    folder.rmdir()
    folder.write_bytes(b"{")
    await at_work.look_first()
    assert not folder.exists(), "what nobody can understand goes"
    assert run.done == []
