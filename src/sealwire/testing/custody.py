"""Rooms for the custody suite: a service with data of two people, and the reference that others are compared with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from sealwire.clients.key_ring import KeyRing
from sealwire.contracts.api_keys import NewApiKey
from sealwire.contracts.credentials import ResetRequest
from sealwire.contracts.crypto import OPERATIONS as CRYPTO_OPERATIONS
from sealwire.contracts.custody import (
    HoldPlacement,
    Known,
    SubjectChanges,
    SubjectErased,
    SubjectErasure,
    SubjectFindings,
    SubjectItem,
    SubjectItems,
    SubjectProbe,
    SubjectQuery,
    SubjectRectified,
    SubjectRestriction,
    require_custodian,
)
from sealwire.contracts.holds import LegalHold
from sealwire.contracts.media import InfoQuery, Infos
from sealwire.contracts.messages import Draft, Edit
from sealwire.kit.caller import Caller
from sealwire.kit.problem import Invalid, Unauthenticated
from sealwire.services.crypto.routes import routes as crypto_routes
from sealwire.testing.auth_room import PASSWORD, AuthRoom, somebody
from sealwire.testing.media_room import MediaRoom
from sealwire.testing.messaging_room import MessagingRoom
from sealwire.testing.search_room import SearchRoom
from sealwire.testing.wirings import open_wiring

TENANT = "tenant-a"


class CustodyRoom(msgspec.Struct, kw_only=True):
    """A service as the suite sees it, with something of `subject_id` and of `other_id` in `tenant_id`.

    `custody` answers the subject operations, and the hold operations where `has_holds`. `words` were stored of the
    person somewhere in this service (sealed or not). `exports` is false where nothing here is the person's to read.
    """

    custody: Any
    subject_id: str
    other_id: str
    close: Callable[[], Awaitable[None]]
    tenant_id: str = TENANT
    words: tuple[str, ...] = ()
    has_holds: bool = False
    exports: bool = True


Opener = Callable[[Path], Awaitable[CustodyRoom]]


class MemoryCustody:
    """The contract over dicts: what every service's answer is compared with, and a quick one for tests of jobs."""

    def __init__(self) -> None:
        self.things: dict[tuple[str, str], list[SubjectItem]] = {}
        self.holds: dict[tuple[str, str], HoldPlacement] = {}
        self.stopped: set[tuple[str, str]] = set()
        self.restricted: set[tuple[str, str]] = set()

    def put(self, tenant_id: str, subject_id: str, kind: str, resource_id: str, **data: Any) -> bool:
        """Store something of a person; False once the person is erased or while restricted."""
        if (tenant_id, subject_id) in self.stopped | self.restricted:
            return False
        item = SubjectItem(kind=kind, resource_id=resource_id, at="2026-01-01T00:00:00.000000Z", data=data)
        self.things.setdefault((tenant_id, subject_id), []).append(item)
        return True

    async def export_subject(self, caller: Caller, subject_id: str, query: SubjectQuery) -> SubjectItems:
        tenant_id = require_custodian(caller)
        if query.cursor is not None and not query.cursor.isdigit():
            raise Invalid("Give a `next_cursor` as it was.", path="$.cursor")
        start = int(query.cursor or 0)
        all_items = self.things.get((tenant_id, subject_id), [])
        end = start + query.limit
        return SubjectItems(items=all_items[start:end], next_cursor=str(end) if end < len(all_items) else None)

    async def erase_subject(self, caller: Caller, subject_id: str, erasure: SubjectErasure) -> SubjectErased:
        tenant_id = require_custodian(caller)
        if any(t == tenant_id and hold.subject_id == subject_id for (t, _), hold in self.holds.items()):
            raise LegalHold("A legal hold covers this person.")
        if erasure.check_only:
            return SubjectErased(done=False)
        self.stopped.add((tenant_id, subject_id))
        things = self.things.get((tenant_id, subject_id), [])
        erased: dict[str, int] = {}
        for item in things[: erasure.limit]:
            erased[item.kind] = erased.get(item.kind, 0) + 1
        del things[: erasure.limit]
        return SubjectErased(done=not things, erased=erased)

    async def rectify_subject(self, caller: Caller, subject_id: str, changes: SubjectChanges) -> SubjectRectified:
        things = self.things.get((require_custodian(caller), subject_id), [])
        changed: dict[str, int] = {}
        new = {name: value for name, value in msgspec.to_builtins(changes).items() if name != "job_id" and value}
        for i, item in enumerate(things):
            data = {name: new.get(name, value) for name, value in item.data.items()}
            if data != item.data:
                things[i] = msgspec.structs.replace(item, data=data)
                changed[item.kind] = changed.get(item.kind, 0) + 1
        return SubjectRectified(changed=changed)

    async def restrict_subject(self, caller: Caller, subject_id: str, restriction: SubjectRestriction) -> None:
        person = (require_custodian(caller), subject_id)
        (self.restricted.add if restriction.restricted else self.restricted.discard)(person)

    async def probe_subject(self, caller: Caller, subject_id: str, probe: SubjectProbe) -> SubjectFindings:
        tenant_id = require_custodian(caller)
        text = str(self.things)
        words = sum(text.count(word) for word in probe.words)
        return SubjectFindings(places={"words": words, "things": len(self.things.get((tenant_id, subject_id), []))})

    async def put_hold(self, caller: Caller, hold_id: str, placement: HoldPlacement) -> None:
        self.holds[require_custodian(caller), hold_id] = placement

    async def release_hold(self, caller: Caller, hold_id: str) -> None:
        self.holds.pop((require_custodian(caller), hold_id), None)

    async def knows_conversation(self, caller: Caller, conversation_id: str) -> Known:
        require_custodian(caller)
        return Known(known=True)


async def open_memory(folder: Path) -> CustodyRoom:
    """Return the reference with two people in it."""
    custody = MemoryCustody()
    for person, name in (("person-1", "Agnes Quill"), ("person-2", "Bertil Hemlock")):
        custody.put(TENANT, person, "profile", person, display_name=name)
        for number in range(5):
            custody.put(TENANT, person, "message", f"{person}-{number}", body=f"{name} says marigold")

    async def close() -> None:
        custody.things.clear()

    return CustodyRoom(
        custody=custody, subject_id="person-1", other_id="person-2", close=close, words=("Agnes Quill",), has_holds=True
    )


async def open_messaging(folder: Path, *, wiring: str = "direct") -> CustodyRoom:
    """Return messaging where two people wrote, reacted and were mentioned."""
    room = MessagingRoom(folder, wiring=wiring)
    await room.open()
    agnes, bertil = await room.enter("agnes"), await room.enter("bertil")
    group = await room.group(agnes, bertil, title="Marigolds")
    for who, word in ((agnes, "quicksilver"), (bertil, "hemlock"), (agnes, "thornapple"), (agnes, "belladonna")):
        await room.say(who, group, f"{who.user_id[-4:]} says {word}")
    mention = Draft(body="look", client_message_id="m1", mentions=[agnes.user_id, bertil.user_id])
    await room.messaging.send(bertil, group.conversation_id, mention)
    await room.messaging.react(agnes, group.conversation_id, 2, "+1")
    await room.messaging.react(bertil, group.conversation_id, 2, "+1")
    await room.messaging.edit(agnes, group.conversation_id, 3, Edit(body="says nightshade"))
    return CustodyRoom(
        custody=room.messaging, subject_id=agnes.user_id, other_id=bertil.user_id, tenant_id=agnes.tenant_id,
        close=room.close, words=("quicksilver", "nightshade"), has_holds=hasattr(room.service, "put_hold"),
    )  # fmt: skip


async def _entered(room: AuthRoom, by: Caller, name: str) -> Caller:
    await room.add(by, name, "owner")
    return room.caller(await room.log_in(name))


async def open_auth(folder: Path, *, wiring: str = "direct") -> CustodyRoom:
    """Return auth with two people who logged in, were written to, have keys and failed at times."""
    room = AuthRoom(folder, wiring=wiring)
    await room.open()
    agnes, _ = await room.enter("agnes")
    bertil = await _entered(room, agnes, "bertil")
    for person in (agnes, bertil):
        await room.auth.add_api_key(person, NewApiKey(name="k", scopes=["read"]))
        await room.auth.totp_enroll(person)
    for name in ("agnes", "bertil"):
        await room.auth.reset_password(somebody(), ResetRequest(email=f"{name}@example.org"))
        with suppress(Unauthenticated):
            await room.log_in(name, password=PASSWORD + "x")
    await room.letters()
    await room.auth.reset_password(somebody(), ResetRequest(email="agnes@example.org"))
    return CustodyRoom(
        custody=room.auth, subject_id=agnes.user_id, other_id=bertil.user_id, tenant_id=agnes.tenant_id,
        close=room.close, words=("agnes@example.org", "Agnes"), has_holds=True,
    )  # fmt: skip


async def open_media(folder: Path, *, wiring: str = "direct") -> CustodyRoom:
    """Return media where two people uploaded, into a conversation and for themselves, one file half only."""
    room = MediaRoom(folder, wiring=wiring)
    await room.open()
    agnes, bertil = await room.enter("agnes"), await room.enter("bertil")
    group = await room.messages.group(agnes, bertil)
    for name, word in (("agnes", b"quicksilver"), ("bertil", b"hemlock")):
        await room.upload(name, word * 20_000, filename=f"{name}.txt", conversation_id=group.conversation_id)
        await room.upload(name, word, filename=f"{name}-own.txt")
        where = await room.begin(name, 1_000, filename="half.txt")
        await room.send(name, where, 0, [b"x" * 500])
    return CustodyRoom(
        custody=room.media, subject_id=agnes.user_id, other_id=bertil.user_id, tenant_id=agnes.tenant_id,
        close=room.close, words=("quicksilver", "agnes-own.txt"), has_holds=True,
    )  # fmt: skip


class NoFiles:
    """The part of media that search asks, with no files in it."""

    async def infos(self, caller: Caller, query: InfoQuery) -> Infos:
        """Return nothing."""
        return Infos(items=[])


async def open_search(folder: Path, *, wiring: str = "direct") -> CustodyRoom:
    """Return search that indexed what two people said."""
    room = SearchRoom(folder, media=NoFiles(), wiring=wiring)  # type: ignore[arg-type]  # the part that search asks
    await room.open()
    agnes, bertil = await room.messages.enter("agnes"), await room.messages.enter("bertil")
    group = await room.messages.group(agnes, bertil)
    for who, word in ((agnes, "quicksilver"), (bertil, "hemlock")):
        await room.messages.say(who, group, f"nothing but {word}")
    await room.caught_up()
    return CustodyRoom(
        custody=room.search, subject_id=agnes.user_id, other_id=bertil.user_id, tenant_id=agnes.tenant_id,
        close=room.close, exports=False,
    )  # fmt: skip


async def open_crypto(folder: Path, *, wiring: str = "direct") -> CustodyRoom:
    """Return crypto with data keys of two people."""
    room = AuthRoom(folder)
    await room.open()
    ring = KeyRing(crypto=room.crypto, service="messaging", clock=room.clock)
    for person in ("person-1", "person-2"):
        for scope in ("conversation-1", "conversation-2"):
            await ring.sealing_key(TENANT, scope, person)
    return CustodyRoom(
        custody=open_wiring(wiring, room.crypto, CRYPTO_OPERATIONS, crypto_routes, clock=room.clock),
        subject_id="person-1", other_id="person-2", close=room.close, has_holds=True,
    )  # fmt: skip


OPENERS: dict[str, Opener] = {
    "memory": open_memory,
    "crypto": open_crypto,
    "crypto-loopback": partial(open_crypto, wiring="loopback"),
    "media": open_media,
    "media-loopback": partial(open_media, wiring="loopback"),
    "messaging": open_messaging,
    "auth": open_auth,
    "auth-loopback": partial(open_auth, wiring="loopback"),
    "messaging-loopback": partial(open_messaging, wiring="loopback"),
    "search": open_search,
    "search-loopback": partial(open_search, wiring="loopback"),
}
"""A service joins the suite by its opener here."""
