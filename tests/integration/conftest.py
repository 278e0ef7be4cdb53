"""A real installation per file for the flows of docs/life, younger than its tokens; tests bring their own people."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sealwire.testing.installation import Installation, Person


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    data: Path = tmp_path_factory.mktemp("installation") / "data"
    running = Installation(data, expose=True).start()
    yield running
    running.kill()


@pytest.fixture(scope="module")
def owner(installation: Installation) -> Person:
    """The first person ever: owns the tenant `default`."""
    return Person(installation.url, "owner")


@pytest.fixture
def person(installation: Installation, owner: Person) -> Callable[[str], Person]:
    """Make a person in the tenant `default`."""
    return lambda name: Person(installation.url, name)


@pytest.fixture
def stranger(installation: Installation, owner: Person) -> Callable[[str], Person]:
    """Make a person in another tenant (the first one there owns it)."""
    tenant = f"selftest-{secrets.token_hex(6)}"
    return lambda name: Person(installation.url, name, tenant)
