"""The typed clients: one per service, each the same in this process and across HTTP, with the names people call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from sealwire.clients.auth import AuthClient, local_auth, remote_auth
from sealwire.clients.compliance import ComplianceClient, local_compliance, remote_compliance
from sealwire.clients.crypto import CryptoClient, local_crypto, remote_crypto
from sealwire.clients.media import local_media, remote_media
from sealwire.clients.messaging import local_messaging, remote_messaging
from sealwire.clients.search import local_search, remote_search
from sealwire.contracts import accountability, crypto, identity, media, messaging, search
from sealwire.contracts.audit_log import Actor, AuditEntry, AuditQuery
from sealwire.contracts.ciphers import Ciphertext, Plaintext
from sealwire.contracts.consents import NewConsent
from sealwire.contracts.conversations import NewConversation
from sealwire.contracts.crypto_terms import DecryptionFailed
from sealwire.contracts.gdpr import JobNotFound, NewErasure, NewExport, NewRectification, PersonChanges
from sealwire.contracts.holds import NewHold
from sealwire.contracts.keys import NewKey
from sealwire.contracts.media import InfoQuery, Infos, MediaNotFound
from sealwire.contracts.messages import Draft, History
from sealwire.contracts.messaging_terms import ConversationNotFound
from sealwire.contracts.retention import NewRetentionRun
from sealwire.contracts.retention_policies import NewRetentionPolicy
from sealwire.contracts.search import SearchQuery
from sealwire.contracts.users import UserNotFound
from sealwire.kit.caller import Caller, Principal
from sealwire.kit.clock import Clock, SystemClock
from sealwire.kit.permission import Role
from sealwire.kit.problem import NotFound, Unauthenticated
from sealwire.resilience.guard import Guard
from sealwire.resilience.registry import Registry
from sealwire.services.auth.routes import routes as auth_routes
from sealwire.services.compliance.routes import routes as compliance_routes
from sealwire.services.crypto.routes import routes as crypto_routes
from sealwire.services.media.routes import routes as media_routes
from sealwire.services.messaging.routes import routes as messaging_routes
from sealwire.services.search.routes import routes as search_routes
from sealwire.testing.auth_room import AuthRoom
from sealwire.testing.compliance import open_compliance
from sealwire.testing.custody import MemoryCustody
from sealwire.testing.media_room import MediaRoom
from sealwire.testing.messaging_room import MessagingRoom
from sealwire.testing.search_room import SearchRoom
from sealwire.testing.wirings import WIRINGS, open_loopback

CLOCK = SystemClock()
PATIENCE_S = 20
SHARED = ("is_healthy", "get_circuit_breaker_state", "clear_cache")


def guard_of(service: str, clock: Clock) -> Guard:
    return Guard.of(service, registry=Registry(clock=clock), clock=clock, rng=Random(1), timeout_s=10)


def client_of(
    wiring: str, service: Any, local: Callable[..., Any], remote: Callable[..., Any],
    operations: Any, routes: Any, clock: Clock,
) -> tuple[Any, Guard]:  # fmt: skip
    """Return a contract as `local_*` or `remote_*` gives it, and the guard it is behind."""
    guard = guard_of(next(iter(operations.values())).service, clock)
    if wiring == "direct":
        return local(service, guard), guard
    return remote(open_loopback(service, operations, routes, clock=clock), guard), guard


def state_of(client: Any, service: str) -> None:
    """What every client tells of itself."""
    assert client.is_healthy()
    assert client.get_circuit_breaker_state().name == service
    client.clear_cache()


@pytest.fixture(params=WIRINGS)
def wiring(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_messaging(wiring: str, tmp_path: Path) -> None:
    room = MessagingRoom(tmp_path)
    await room.open()
    try:
        client, _ = client_of(
            wiring, room.service, local_messaging, remote_messaging, messaging.OPERATIONS, messaging_routes, room.clock
        )
        anna, ben, eve = [await room.enter(name) for name in ("anna", "ben", "eve")]
        group = await client.create(anna, NewConversation(kind="group", member_ids=[ben.user_id]))
        said = await client.send(anna, group.conversation_id, Draft(body="hello", client_message_id="k1"))
        found = await client.history(ben, group.conversation_id, History())
        assert [(message.seq, message.body) for message in found.items] == [(said.seq, "hello")]
        with pytest.raises(ConversationNotFound):
            await client.history(eve, group.conversation_id, History())
        state_of(client, "messaging")
    finally:
        await room.close()


async def test_media(wiring: str, tmp_path: Path) -> None:
    room = MediaRoom(tmp_path)
    await room.open()
    try:
        client, _ = client_of(
            wiring, room.service, local_media, remote_media, media.OPERATIONS, media_routes, room.clock
        )
        anna, ben = [await room.enter(name) for name in ("anna", "ben")]
        media_id = await room.upload("anna", b"a file of a few bytes")
        found = await client.info(anna, media_id)
        assert (found.media_id, found.size_bytes) == (media_id, 21)
        with pytest.raises(MediaNotFound):
            await client.info(ben, media_id)
        await client.delete(anna, media_id)
        with pytest.raises(MediaNotFound):
            await client.info(anna, media_id)
        state_of(client, "media")
    finally:
        await room.close()


class NoFiles:
    """The one call that search makes of media, where there are no files."""

    async def infos(self, caller: Caller, query: InfoQuery) -> Infos:
        return Infos(items=[])


async def test_search(wiring: str, tmp_path: Path) -> None:
    room = SearchRoom(tmp_path, media=NoFiles())  # type: ignore[arg-type]  # the part it uses
    await room.open()
    try:
        client, _ = client_of(
            wiring, room.service, local_search, remote_search, search.OPERATIONS, search_routes, room.clock
        )
        anna, eve = [await room.messages.enter(name) for name in ("anna", "eve")]
        said = await room.messages.say(anna, await room.messages.group(anna), "a zeppelin over the lake")
        await room.caught_up()
        assert [hit.message_id for hit in (await client.search(anna, SearchQuery(q="zeppelin"))).items] == [
            said.message_id
        ]
        assert (await client.search(eve, SearchQuery(q="zeppelin"))).items == []
        state_of(client, "search")
    finally:
        await room.close()


async def test_auth(wiring: str, tmp_path: Path) -> None:
    room = AuthRoom(tmp_path)
    await room.open()
    try:
        contract, _ = client_of(
            wiring, room.service, local_auth, remote_auth, identity.OPERATIONS, auth_routes, room.clock
        )
        client = AuthClient(auth=contract, service="gateway", clock=room.clock, rng=Random(1))
        anna, granted = await room.enter("anna")
        assert (await client.validate_token(granted.access_token)).sub == anna.user_id
        assert (await client.get_session(granted.session_id)).user_id == anna.user_id
        assert (await client.get_user_profile(anna.tenant_id, anna.user_id)).display_name == "Anna"
        with pytest.raises(UserNotFound):
            await client.get_user_profile(anna.tenant_id, "nobody")
        assert granted.refresh_token
        again = await client.refresh_token(granted.refresh_token)
        assert again.session_id == granted.session_id
        await client.revoke_token(anna, again.access_token)
        with pytest.raises(Unauthenticated):
            await client.validate_token(again.access_token)
        state_of(client, "auth")
    finally:
        await room.close()


async def test_crypto(wiring: str, tmp_path: Path) -> None:
    room = AuthRoom(tmp_path)
    await room.open()
    try:
        contract, guard = client_of(
            wiring, room.crypto, local_crypto, remote_crypto, crypto.OPERATIONS, crypto_routes, room.clock
        )
        client = CryptoClient(crypto=contract, guard=guard, service="messaging", clock=room.clock)
        key = await client.generate_key(ADMIN, NewKey(name="reports"))
        sealed = await client.encrypt(ADMIN, key.key_id, Plaintext(plaintext=b"\x00\xff attack", context={"r": "7"}))
        back = Ciphertext(
            ciphertext=sealed.ciphertext, iv=sealed.iv, auth_tag=sealed.auth_tag, version=1, context={"r": "7"}
        )
        assert (await client.decrypt(ADMIN, key.key_id, back)).plaintext == b"\x00\xff attack"
        with pytest.raises(DecryptionFailed):
            await client.decrypt_with_master_key(ADMIN, back)
        master = await client.encrypt_with_master_key(ADMIN, Plaintext(plaintext=b""))
        back = Ciphertext(ciphertext=master.ciphertext, iv=master.iv, auth_tag=master.auth_tag, version=1)
        assert (await client.decrypt_with_master_key(ADMIN, back)).plaintext == b""
        assert len((await client.rotate_key(ADMIN, key.key_id)).versions) == 2
        assert key.key_id in [found.key_id for found in (await client.get_tenant_keys(ADMIN)).items]
        envelope = await client.ring.seal("t1", "c1", "u1", b"body", b"context")
        held = client.ring.ready("t1", "c1", "u1")
        state_of(client, "crypto")
        assert held is not None
        assert held.wiped
        assert await client.ring.open("t1", "c1", "u1", envelope, b"context") == b"body"
    finally:
        await room.close()


ADMIN = Caller(
    principal=Principal(
        kind="user", tenant_id="t1", subject="admin-1", role=Role.ADMIN, auth_time_s=4_000_000_000, session_id="s"
    )
)


@asynccontextmanager
async def compliance_client(wiring: str, folder: Path) -> AsyncIterator[ComplianceClient]:
    auth = MemoryCustody()
    auth.put("t1", "agnes-1", "profile", "agnes-1", email="agnes@example.org", display_name="Agnes Quill")
    async with open_compliance(folder, custodians={"auth": auth}) as room:
        contract, guard = client_of(
            wiring, room.service, local_compliance, remote_compliance, accountability.OPERATIONS, compliance_routes,
            CLOCK,
        )  # fmt: skip
        client = ComplianceClient(compliance=contract, guard=guard, service="gateway", wait_s=0.01)
        yield client
        await client.stop()


async def until(look: Callable[[], Awaitable[Any]], seen: Callable[[Any], bool]) -> Any:
    async with asyncio.timeout(PATIENCE_S):
        while not seen(found := await look()):  # noqa: ASYNC110 - what is at the other end tells nobody
            await asyncio.sleep(0.02)
    return found


async def ended(look: Callable[..., Awaitable[Any]], job_id: str) -> Any:
    return await until(lambda: look(ADMIN, job_id), lambda job: job.status in ("done", "failed"))


async def test_compliance_log_and_proofs(wiring: str, tmp_path: Path) -> None:
    async with compliance_client(wiring, tmp_path) as client:
        for number in range(3):
            client.log(
                AuditEntry(
                    audit_id=f"a-{number}", tenant_id="t1", actor=Actor(type="user", id="anna"), action="report.read",
                    resource_type="report",
                )
            )  # fmt: skip
        await client.flush()
        assert client.waiting == 0
        found = await client.query(ADMIN, AuditQuery(action="report.read"))
        assert [record.audit_id for record in found.items] == ["a-0", "a-1", "a-2"]
        assert (await client.verify(ADMIN)).ok
        assert (await client.checkpoint(ADMIN)).tree_size >= 3
        state_of(client, "compliance")


async def test_compliance_rights_of_a_person(wiring: str, tmp_path: Path) -> None:
    async with compliance_client(wiring, tmp_path) as client:
        given = await client.give_consent(ADMIN, NewConsent(purpose="news", policy_version="1"))
        assert [consent.purpose for consent in (await client.get_consents(ADMIN)).items] == [given.purpose]
        await client.withdraw_consent(ADMIN, "news")
        changes = PersonChanges(display_name="Agnes Quillfeather")
        asked = await client.request_rectification(ADMIN, NewRectification(subject_id="agnes-1", changes=changes))
        assert (await ended(client.get_rectification, asked.job_id)).status == "done"
        asked = await client.request_export(ADMIN, NewExport(subject_id="agnes-1"))
        assert (await ended(client.get_export, asked.job_id)).download
        asked = await client.request_erasure(ADMIN, NewErasure(subject_id="agnes-1"))
        assert (await ended(client.get_erasure, asked.job_id)).certificate
        with pytest.raises(JobNotFound):
            await client.get_export(ADMIN, "no-such-job")


async def test_compliance_retention_and_holds(wiring: str, tmp_path: Path) -> None:
    async with compliance_client(wiring, tmp_path) as client:
        await client.set_retention_policy(ADMIN, "audit", NewRetentionPolicy(keep_days=400))
        assert [policy.resource_type for policy in (await client.get_retention_policies(ADMIN)).items] == ["audit"]
        run = await client.run_retention(ADMIN, NewRetentionRun(dry_run=True, resource_type="audit"))
        await until(lambda: client.get_retention_run(ADMIN, run.run_id), lambda run: run.status == "listed")
        await client.remove_retention_policy(ADMIN, "audit")
        with pytest.raises(NotFound):
            await client.remove_retention_policy(ADMIN, "audit")
        hold = await client.put_hold(ADMIN, NewHold(reason="case 7", subject_id="agnes-1"))
        assert [held.hold_id for held in (await client.get_holds(ADMIN)).items] == [hold.hold_id]
        await client.release_hold(ADMIN, hold.hold_id)
        await until(lambda: client.get_holds(ADMIN), lambda holds: not holds.items)


def test_every_client_has_the_names_that_people_call() -> None:
    names = {
        AuthClient: ("validate_token", "get_session", "get_user_profile", "refresh_token", "revoke_token"),
        CryptoClient: (
            "generate_key", "get_tenant_keys", "rotate_key", "encrypt", "decrypt", "encrypt_with_master_key",
            "decrypt_with_master_key",
        ),
        ComplianceClient: (
            "log", "query", "verify", "give_consent", "withdraw_consent", "request_export", "request_erasure",
            "request_rectification", "set_retention_policy", "run_retention",
        ),
    }  # fmt: skip
    for client, wanted in names.items():
        assert not [name for name in (*wanted, *SHARED) if not callable(getattr(client, name, None))], client
