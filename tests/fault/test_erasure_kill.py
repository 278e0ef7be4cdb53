"""kill -9 around every step of an erasure: each life does one step, and the last one has nothing missing to certify."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sealwire.kit.files import count_in_files
from sealwire.services.compliance.certificates import read_certificate
from sealwire.services.compliance.notes import parse_key

MAIL = "ottilie.quackenbush@example.org"
WORD = "Rhabarberkompott"
MESSAGES = 450
LIVES = 60

NURSERY = """
import asyncio, json, os, signal, sys, traceback
from pathlib import Path
from random import Random

from sealwire.adapters.embedded.blobs import FileBlobStore
from sealwire.adapters.embedded.compliance import SqliteCompliance
from sealwire.clients.key_ring import KeyRing
from sealwire.contracts.gdpr import NewErasure
from sealwire.contracts.holds import NewHold
from sealwire.contracts.messages import Draft
from sealwire.kit.files import count_in_files
from sealwire.services.compliance.config import ComplianceConfig
from sealwire.services.compliance.job_ports import JobFilter
from sealwire.services.compliance.rights import Surroundings
from sealwire.services.compliance.service import ComplianceService
from sealwire.testing.media_room import MediaRoom


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def deadly(store):
    # Before the save the step is done and nobody knows; after it the next one has not begun.
    save, saves = store.save, 0

    async def once(job, events=()):
        nonlocal saves
        before = await store.job(job.tenant_id, job.job_id)
        if (before.box, before.receipts) == (job.box, job.receipts):
            return  # each life walks anew past what is held: no step forward
        saves += 1
        if when == "before" and saves == 2:
            die()
        await save(job, events)
        if when == "after" and saves == 1:
            die()

    if when != "never":
        store.save = once


async def main():
    room = MediaRoom(folder)
    await room.open()
    people = room.messages.people
    storage = SqliteCompliance.open(folder / "compliance.db")
    deadly(storage.stores.rights)
    service = ComplianceService(
        stores=storage.stores, crypto=people.crypto,
        keys=KeyRing(crypto=people.crypto, service="compliance", clock=room.clock),
        around=Surroundings(
            custodians=lambda: {
                "auth": people.auth, "messaging": room.messages.messaging, "media": room.media,
                "compliance": service, "crypto": people.crypto,
            },
            blobs=FileBlobStore(folder / "exports"),
            count_in_data=lambda texts: asyncio.to_thread(count_in_files, [folder], texts),
            rng=Random(1),
        ),
        clock=room.clock, config=ComplianceConfig(job_retry_base_s=0.01, job_retry_cap_s=0.02),
    )
    if first:
        owner = await room.enter("bertil")
        agnes = await room.enter("ottilie.quackenbush")
        group = await room.messages.group(owner, agnes)
        for number in range(MESSAGES):
            await room.messages.say(agnes, group, f"{number} {WORD}")
        draft = Draft(body="to you", client_message_id="k", mentions=[owner.user_id])
        await room.messages.messaging.send(agnes, group.conversation_id, draft)
        await room.upload("ottilie.quackenbush", WORD.encode() * 9_000, conversation_id=group.conversation_id)
        await service.start()
        if order["held"]:
            await service.hold(owner, NewHold(reason="case 7", subject_id=owner.user_id))
        job = await service.request_erasure(agnes, NewErasure(messages=policy))
        print(job.job_id, agnes.user_id, agnes.tenant_id, flush=True)
        await service.rights.runner.settled(job.job_id)
    else:
        await service.start()
        for job in await storage.stores.rights.unfinished():
            await service.rights.runner.settled(job.job_id)
    for job in await storage.stores.rights.jobs(tenant, JobFilter(), before="", limit=1):
        told = room.messages.stores.db.read("SELECT conversation_id FROM conversation")[0][0]
        newest = (await room.messages.stores.messages.history(told, after=None, before=None, limit=1))[0]
        content = await room.messages.service._subjects._bodies.content(newest)
        print(job.status, job.public_key, newest.sender_id, content is not None, flush=True)
        (folder.parent / "certificate").write_text(job.certificate or "")
    await service.stop()
    await storage.close()
    await room.close()

def live():
    try:
        asyncio.run(main())
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)


# A life of its own for each order, born with everything imported: that is what starting a program takes longest for.
for line in sys.stdin:
    order = json.loads(line)
    folder, first, when, policy = Path(order["folder"]), order["first"], order["when"], order["policy"]
    WORD, MESSAGES, tenant = order["word"], order["messages"], order["tenant"]
    child = os.fork()
    if child == 0:
        said = os.open(order["said"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(said, 1)
        os.dup2(said, 2)
        live()
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


class Nursery:
    """Where lives come from. Each is a process of its own, forked from one that has opened nothing yet."""

    def __init__(self, folder: Path) -> None:
        self._said = folder / "said"
        self._process = subprocess.Popen(
            [sys.executable, "-c", NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder
        )

    def live(
        self, folder: Path, *, first: bool, when: str, policy: str, tenant: str = "-", held: bool = False
    ) -> tuple[int, list[str]]:
        """Live until the end or the kill; return the exit code and what was said."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {"folder": str(folder), "first": first, "when": when, "policy": policy, "word": WORD,
                 "messages": MESSAGES, "tenant": tenant, "said": str(self._said), "held": held}  # fmt: skip
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        said = self._said.read_text()
        assert code in (0, -9), said[-3000:]
        return code, said.split()

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    nursery = Nursery(tmp_path)
    yield nursery
    nursery.close()


@pytest.mark.parametrize(("policy", "held"), [("tombstone", False), ("anonymise", True)])
def test_every_step_survives_a_kill(tmp_path, nursery, policy, held):
    # `held`: a hold on whom the last message mentions, so its author's key is spared by every later step.
    folder = tmp_path / "data"
    folder.mkdir()
    code, said = nursery.live(folder, first=True, when="after", policy=policy, held=held)
    assert code == -9
    _, subject_id, tenant_id = said[:3]
    kills = 1
    for life in range(LIVES):
        code, said = nursery.live(
            folder, first=False, when=("before", "after")[life % 2], policy=policy, tenant=tenant_id
        )
        if code == 0:
            break
        kills += 1
    assert (code, said[0]) == (0, "done"), "the erasure came to its end"
    assert kills >= 8, "there was a kill around every step"
    note = (tmp_path / "certificate").read_text()
    statement = read_certificate(note, [parse_key(said[1])])
    assert statement["subject_id"] == subject_id
    assert statement["probe"]["found"] == 0
    assert (said[2] == subject_id, said[3] == "True") == (held, held), "readable, of whom it was, or neither"
    kept = {part["where"]: part["kept_under_legal_hold"] for part in statement["erased"]}["messaging"]
    assert kept == ({"message": 1, "membership": 1, "data_key": 1} if held else {})
    assert count_in_files([folder], [MAIL.encode(), WORD.encode()]) == 0
