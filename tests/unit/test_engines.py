"""Engines for tests and drills."""

from __future__ import annotations

import pytest

from sealwire.testing import engines


def test_an_engine_that_is_missing_is_told_with_what_installs_it(tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "binary", lambda flavour: None)
    with pytest.raises(FileNotFoundError, match="make setup-dev"):
        engines.RedisServer(tmp_path / "server")
