"""One builder per service: opens its storage, makes it with its collaborators, says how it is reached and stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from sealwire.adapters.distributed.outward import HttpOutward
from sealwire.adapters.embedded.auth import SqliteAuth
from sealwire.adapters.embedded.blobs import FileBlobStore
from sealwire.adapters.embedded.compliance import SqliteCompliance
from sealwire.adapters.embedded.crypto import MIGRATIONS as CRYPTO_MIGRATIONS
from sealwire.adapters.embedded.crypto import SqliteKeyStore
from sealwire.adapters.embedded.drivers.sqlite import Database
from sealwire.adapters.embedded.index import IndexTuning, TantivySearchIndex
from sealwire.adapters.embedded.mail import FolderMailer
from sealwire.adapters.embedded.media import MIGRATIONS as MEDIA_MIGRATIONS
from sealwire.adapters.embedded.media import SqliteMediaStore
from sealwire.adapters.embedded.messaging import SqliteMessaging
from sealwire.adapters.embedded.outbox import SqlitePositions
from sealwire.clients.compliance import send_records
from sealwire.clients.key_ring import KeyRing
from sealwire.clients.quotas import QuotaBook
from sealwire.contracts import accountability, crypto, identity, media, messaging, search
from sealwire.contracts.audit_log import AuditEntry
from sealwire.contracts.custody import SubjectCustody
from sealwire.kit.caller import SYSTEM_TENANT, service_caller
from sealwire.kit.files import count_in_files
from sealwire.kit.http import Edge, Route
from sealwire.kit.lifespan import Probe
from sealwire.kit.problem import Unavailable
from sealwire.ports.events import Consumer, Event, EventFeed, Positions
from sealwire.ports.mail import Mailer
from sealwire.runtime.key_jobs import KeyJobs
from sealwire.services.auth.external_routes import external_routes
from sealwire.services.auth.openid_routes import openid_routes, with_apps
from sealwire.services.auth.routes import routes as auth_routes
from sealwire.services.auth.service import AuthService
from sealwire.services.compliance.rights import Surroundings
from sealwire.services.compliance.routes import routes as compliance_routes
from sealwire.services.compliance.service import ComplianceService
from sealwire.services.crypto.events import audit_entry as crypto_entry
from sealwire.services.crypto.routes import routes as crypto_routes
from sealwire.services.crypto.service import CryptoService
from sealwire.services.gateway.limiter import CallMeter
from sealwire.services.gateway.subjects import SubjectTraces
from sealwire.services.media.events import audit_entry as media_entry
from sealwire.services.media.routes import routes as media_routes
from sealwire.services.media.scanning import SignatureScanner
from sealwire.services.media.service import MediaService
from sealwire.services.messaging.events import audit_entry as messaging_entry
from sealwire.services.messaging.routes import routes as messaging_routes
from sealwire.services.messaging.service import MessagingService
from sealwire.services.search.keys import SnapshotDataKeys
from sealwire.services.search.routes import routes as search_routes
from sealwire.services.search.service import SearchService
from sealwire.services.socket.routes import socket_routes as websocket_routes
from sealwire.services.socket.service import SocketService

if TYPE_CHECKING:
    from sealwire.runtime.assembly import Assembly

Later = Callable[[], Awaitable[None]]
HOLDERS = ("auth", "messaging", "media", "search", "compliance", "crypto")
"""The services that hold data of people."""


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """A service as the assembly handles it. `contract` is what others call: `service` behind its guard.

    `gateway_routes` are for browsers and apps: only the gateway opens them. `people_routes` are open on the service's
    own port to people too. `drain` sends long-lived connections elsewhere
    before the ports close; `relay` tells compliance of every change, from the last step of the start until rooms stop.
    """

    service: Any
    contract: Any
    start: Later
    stop: Later
    checks: Callable[[], Mapping[str, Probe]]
    routes: Callable[[Edge], Sequence[Route]]
    gateway_routes: Callable[[Edge], Sequence[Route]] | None = None
    people_routes: Callable[[Edge], Sequence[Route]] | None = None
    drain: Later | None = None
    relay: Consumer | None = None


Entries = Callable[[Sequence[Event]], Awaitable[list[AuditEntry]]]


def _in_turn(*steps: Later) -> Later:
    """Return one step that does several. Relays are no part of a room's stop: they end before the first room does."""

    async def run() -> None:
        for step in steps:
            await step()

    return run


def _ring(assembly: Assembly, service: str) -> KeyRing:
    return KeyRing(crypto=assembly.contract("crypto"), service=service, clock=assembly.clock)


def _relay(assembly: Assembly, service: str, feed: EventFeed, positions: Positions, entries: Entries) -> Consumer:
    """Return the consumer that turns a service's outbox into audit records; the same event is recorded once."""
    caller = service_caller(service, SYSTEM_TENANT)

    async def handle(events: Sequence[Event]) -> None:
        # Looked up now: services started before compliance have a relay too.
        await send_records(assembly.contract("compliance"), caller, await entries(events))

    return Consumer(
        name=f"{service}-audit", feed=feed, positions=positions, handle=handle, batch=100,
        linger_s=assembly.settings.compliance.relay_wait_s,
    )  # fmt: skip


def _one_by_one(entry: Callable[[Event], AuditEntry]) -> Entries:
    async def entries(events: Sequence[Event]) -> list[AuditEntry]:
        return [entry(event) for event in events]

    return entries


def _quotas(assembly: Assembly, service: str) -> QuotaBook:
    return QuotaBook(auth=lambda: assembly.contract("auth"), service=service, clock=assembly.clock)


async def build_crypto(assembly: Assembly) -> Room:
    """Keys first: everybody else seals with them."""
    db = Database.open(assembly.data / "crypto.db", CRYPTO_MIGRATIONS)
    store = SqliteKeyStore(db)
    service = CryptoService(
        store=store, provider=assembly.provider, clock=assembly.clock, config=assembly.settings.crypto,
        quotas=_quotas(assembly, "crypto"), holds_told=lambda: assembly.holds_told(),
    )  # fmt: skip
    relay = _relay(assembly, "crypto", store.feed, SqlitePositions(db), _one_by_one(crypto_entry))
    jobs = KeyJobs(
        settings=assembly.settings,
        providers=assembly.provider,
        crypto=service,
        local_keys=assembly.local_keys,
        clock=assembly.clock,
    )

    return Room(
        service=service,
        contract=assembly.guard(service, crypto.OPERATIONS, "crypto"),
        start=_in_turn(service.start, jobs.start),
        stop=_in_turn(jobs.stop, service.stop, db.close),
        checks=service.checks,
        routes=lambda edge: crypto_routes(service, edge),
        relay=relay,
    )


def _surroundings(assembly: Assembly) -> Surroundings:
    """Return what compliance needs around it to keep people's rights: who holds data, and where files are."""

    traces = SubjectTraces(spool=assembly.records, caught_up=lambda: assembly.boundary.coordinator.ensure_fresh())

    def custodians() -> Mapping[str, SubjectCustody]:
        # All of them or none: an erasure must not pass by a service that is about to start.
        try:
            return {**{name: assembly.contract(name) for name in HOLDERS}, "gateway": traces}
        except KeyError as error:
            raise Unavailable(f"{error.args[0]} is not started.") from None

    return Surroundings(
        custodians=custodians,
        blobs=FileBlobStore(assembly.data / "exports"),
        count_in_data=lambda texts: asyncio.to_thread(count_in_files, [assembly.data], texts),
        rng=assembly.rng,
    )


async def build_compliance(assembly: Assembly) -> Room:
    """The audit log, which every other service writes to from its outbox."""
    storage = SqliteCompliance.open(assembly.data / "compliance.db")
    service = ComplianceService(
        stores=storage.stores,
        crypto=assembly.contract("crypto"),
        keys=_ring(assembly, "compliance"),
        around=_surroundings(assembly),
        clock=assembly.clock,
        config=assembly.settings.compliance,
    )
    assembly.holds_told = lambda: service.keeping.holds.told

    return Room(
        service=service,
        contract=assembly.guard(service, accountability.OPERATIONS, "compliance"),
        start=service.start,
        stop=_in_turn(service.stop, storage.close),
        checks=service.checks,
        routes=lambda edge: compliance_routes(service, edge),
        drain=service.drain,
    )


def _mailer(assembly: Assembly) -> Mailer:
    """Return how letters leave: by a mail server where one is named, else into the data folder."""
    config = assembly.settings.auth
    if not config.smtp_host:
        return FolderMailer(assembly.data / "outbox", sender=config.mail_from)
    # Here: what a mail client loads is of no use to an installation without a mail server.
    from sealwire.adapters.distributed.mail import SmtpMailer

    return SmtpMailer(
        host=config.smtp_host, port=config.smtp_port, tls=config.smtp_tls, user=config.smtp_user,
        password=config.smtp_password, sender=config.mail_from,
    )  # fmt: skip


async def build_auth(assembly: Assembly) -> Room:
    """Tenants, people, tokens, sessions and the feed of what ended."""
    storage = SqliteAuth.open(assembly.data / "auth.db")
    service = AuthService(
        stores=storage.stores,
        sealer=_ring(assembly, "auth"),
        mailer=_mailer(assembly),
        clock=assembly.clock,
        config=assembly.settings.auth,
        public_url=assembly.url,
        holds_told=lambda: assembly.holds_told(),
        outward=HttpOutward(networks=assembly.settings.auth.outward_networks),
    )
    relay = _relay(assembly, "auth", service.events, service.positions, service.audit_entries)

    return Room(
        service=service,
        contract=assembly.guard(service, identity.OPERATIONS, "auth"),
        start=service.start,
        stop=_in_turn(service.stop, storage.close),
        checks=service.checks,
        routes=lambda edge: with_apps(auth_routes(service, edge), service.openid),
        gateway_routes=lambda edge: [
            *openid_routes(service.openid, edge),
            *external_routes(service.external, edge),
        ],
        relay=relay,
    )


async def build_messaging(assembly: Assembly) -> Room:
    """Conversations and messages."""
    storage = SqliteMessaging.open(assembly.data / "messaging.db")
    service = MessagingService(
        conversations=storage.conversations,
        messages=storage.messages,
        events=storage.events,
        subjects=storage.subjects,
        keeping=storage.keeping,
        keys=_ring(assembly, "messaging"),
        crypto=assembly.contract("crypto"),
        auth=assembly.contract("auth"),
        clock=assembly.clock,
        config=assembly.settings.messaging,
        quotas=_quotas(assembly, "messaging"),
        holds_told=lambda: assembly.holds_told(),
    )
    relay = _relay(assembly, "messaging", storage.events, storage.positions, _one_by_one(messaging_entry))

    guarded = assembly.guard(service, messaging.OPERATIONS, "messaging")
    return Room(
        service=service,
        contract=guarded,
        start=service.start,
        stop=_in_turn(service.stop, storage.close),
        checks=service.checks,
        routes=lambda edge: messaging_routes(guarded, edge),
        relay=relay,
    )


async def build_media(assembly: Assembly) -> Room:
    """Files: taken in by tus, sealed while they stream, given out by range."""
    db = Database.open(assembly.data / "media.db", MEDIA_MIGRATIONS)
    store = SqliteMediaStore(db)
    service = MediaService(
        store=store,
        blobs=FileBlobStore(assembly.data / "blobs"),
        keys=_ring(assembly, "media"),
        auth=assembly.contract("auth"),
        messaging=assembly.contract("messaging"),
        scanner=SignatureScanner(),
        clock=assembly.clock,
        config=assembly.settings.media,
        quotas=_quotas(assembly, "media"),
        holds_told=lambda: assembly.holds_told(),
    )
    relay = _relay(assembly, "media", store.feed, SqlitePositions(db), _one_by_one(media_entry))

    return Room(
        service=service,
        contract=assembly.guard(service, media.OPERATIONS, "media"),
        start=service.start,
        stop=_in_turn(service.stop, db.close),
        checks=service.checks,
        routes=lambda edge: media_routes(service, edge),
        relay=relay,
    )


async def build_search(assembly: Assembly) -> Room:
    """Full text, in memory; on disk only sealed snapshots."""
    config = assembly.settings.search
    index = TantivySearchIndex(
        folder=assembly.data / "search",
        keys=SnapshotDataKeys(_ring(assembly, "search")),
        clock=assembly.clock,
        tuning=IndexTuning(
            commit_every_s=config.commit_every_s,
            snapshot_every_s=config.snapshot_every_s,
            dead_keep_s=config.dead_keep_s,
            bound_bytes=config.bound_bytes,
            plain_tenants=frozenset(config.plain_tenants),
        ),
    )
    service = SearchService(
        index=index,
        messaging=assembly.contract("messaging"),
        media=assembly.contract("media"),
        clock=assembly.clock,
        config=config,
        records=await assembly.records(),
    )
    guarded = assembly.guard(service, search.OPERATIONS, "search")
    return Room(
        service=service,
        contract=guarded,
        start=service.start,
        stop=service.stop,
        checks=service.checks,
        routes=lambda edge: search_routes(guarded, edge),
    )


def _socket_meter(assembly: Assembly) -> CallMeter | None:
    """Calls over sockets count against the gateway's limits, all instances together."""
    if assembly.limiter is None:
        return None
    return CallMeter(
        counts=assembly.limiter.counts,
        writes_per_minute=assembly.settings.gateway.write_per_minute,
        others_per_minute=assembly.settings.socket.commands_per_minute,
    )


def _socket_builder(instance: str) -> Callable[[Assembly], Awaitable[Room]]:
    async def build(assembly: Assembly) -> Room:
        """One instance: connections, rooms, fan-out."""
        service = SocketService(
            instance=instance,
            gateway=assembly.boundary.sockets,
            messaging=assembly.contract("messaging"),
            bus=assembly.shared.bus,
            presence=assembly.shared.presence,
            clock=assembly.clock,
            config=assembly.settings.socket,
            meter=_socket_meter(assembly),
            records=await assembly.records(),
        )
        assembly.boundary.serve_sockets(instance, service.changed, service.opened)
        return Room(
            service=service,
            contract=service,
            start=service.start,
            stop=service.stop,
            checks=service.checks,
            routes=lambda _edge: [],
            people_routes=lambda edge: websocket_routes(service, edge),
            drain=service.drain,
        )

    return build


BUILDERS: dict[str, Callable[[Assembly], Awaitable[Room]]] = {
    "crypto": build_crypto,
    "compliance": build_compliance,
    "auth": build_auth,
    "messaging": build_messaging,
    "media": build_media,
    "search": build_search,
    "socket1": _socket_builder("socket1"),
    "socket2": _socket_builder("socket2"),
}
