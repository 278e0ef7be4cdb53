"""The ports of test installations: processes that test side by side take none from each other."""

from __future__ import annotations

import pytest

from sealwire.testing.free_ports import free_port_base


def test_processes_beside_each_other_choose_among_different_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", "3")
    for worker in range(3):
        monkeypatch.setenv("PYTEST_XDIST_WORKER", f"gw{worker}")
        bases = [free_port_base() for _ in range(50)]
        assert len(set(bases)) == 50, "who was given one need not listen yet"
        assert {base // 10 % 3 for base in bases} == {(1_000 + worker) % 3}
        assert min(bases) >= 10_000
        assert max(bases) < 32_000, "the kernel gives those from 32,768 on to connections"
