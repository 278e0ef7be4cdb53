"""The media service: the list of its use cases."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from sealwire.contracts.auth import Auth
from sealwire.contracts.media import InfoQuery, Infos, Link, MediaInfo, MediaNotFound, NewLink
from sealwire.contracts.messaging import Messaging
from sealwire.contracts.tenancy import QuotaSource
from sealwire.kit.caller import Caller
from sealwire.kit.clock import Clock, rfc3339
from sealwire.kit.permission import Permission
from sealwire.kit.problem import Forbidden
from sealwire.ports.blobs import BlobStore
from sealwire.services.media.access import Access, require
from sealwire.services.media.config import MediaConfig
from sealwire.services.media.downloads import Downloads
from sealwire.services.media.events import media_event
from sealwire.services.media.keeping import KeepingCases
from sealwire.services.media.links import Links
from sealwire.services.media.looks import Looks
from sealwire.services.media.model import FileState
from sealwire.services.media.ports import DataKeys, MediaStore
from sealwire.services.media.scanning import Scanner
from sealwire.services.media.sparing import Sparing
from sealwire.services.media.subjects import SubjectFiles
from sealwire.services.media.sweeping import Sweeper
from sealwire.services.media.transfers import Transfers
from sealwire.services.media.uploads import Uploads
from sealwire.services.media.vault import Vault


class MediaService:
    """`contracts.media.Media` in this process; `uploads`, `downloads` and `links` are what its raw routes call."""

    def __init__(
        self,
        *,
        store: MediaStore,
        blobs: BlobStore,
        keys: DataKeys,
        auth: Auth,
        messaging: Messaging,
        scanner: Scanner,
        clock: Clock,
        config: MediaConfig,
        quotas: QuotaSource | None = None,
        holds_told: Callable[[], bool] = lambda: True,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._scanner = scanner
        self._clock = clock
        self.config = config
        vault = Vault(blobs=blobs, keys=keys)
        access = Access(auth=auth, messaging=messaging)
        self._sparing = sparing = Sparing(store=store, messaging=messaging)
        cases = KeepingCases(
            store=store.keeping, sparing=sparing, messaging=messaging, keys=keys, clock=clock,
            bury=lambda: self._sweeper.soon(),
        )  # fmt: skip
        self.put_hold, self.release_hold = cases.put_hold, cases.release_hold
        self.due, self.dispose, self.reclaim = cases.due, cases.dispose, cases.reclaim
        self.follow_forgotten = cases.follow_forgotten
        self._sweeper = Sweeper(
            store=store,
            sparing=sparing,
            blobs=blobs,
            keys=keys,
            clock=clock,
            config=config,
            released=cases.purge_released,
            forgotten=cases.follow_forgotten,
            holds_told=holds_told,
        )
        self._looks = Looks(store=store, sparing=sparing, vault=vault, scanner=scanner, clock=clock, config=config)
        self.transfers = Transfers(still=access.still, clock=clock, watch_s=config.watch_s, stall_s=config.stall_s)
        self.uploads = Uploads(
            store=store,
            sparing=sparing,
            vault=vault,
            access=access,
            transfers=self.transfers,
            scanner=scanner,
            clock=clock,
            config=config,
            examine=self._looks.add,
            bury=self._sweeper.soon,
            quotas=quotas,
        )
        self.downloads = Downloads(
            store=store,
            vault=vault,
            access=access,
            transfers=self.transfers,
            uploads=self.uploads,
            looks=self._looks,
            clock=clock,
            config=config,
        )
        subjects = SubjectFiles(
            store=store, subjects=store.subjects, sparing=sparing, vault=vault, keys=keys,
            describe=self.downloads.describe, bury=self._sweeper.bury, clock=clock,
        )  # fmt: skip
        self.export_subject, self.subject_content = subjects.export_subject, subjects.subject_content
        self.erase_subject, self.probe_subject = subjects.erase_subject, subjects.probe_subject
        self.rectify_subject, self.restrict_subject = subjects.rectify_subject, subjects.restrict_subject
        self.links = Links(keys=keys, access=access, clock=clock)

    async def start(self) -> None:
        """Begin to watch transfers, to look at files that wait for it, and to sweep."""
        self.transfers.start()
        await self._looks.start(self.uploads)
        self._sweeper.start()

    async def stop(self) -> None:
        """End transfers (what uploads got is kept) and background work. Safe to call twice."""
        await self.transfers.stop()
        await self._looks.stop()
        await self._sweeper.stop()

    def checks(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """Return what this needs to work, each with its probe."""
        return {"store": self._store.check, "blobs": self._blobs.check, "scanner": self._scanner.check}

    async def info(self, caller: Caller, media_id: str) -> MediaInfo:
        return await self.downloads.describe(await self.downloads.find(caller, media_id))

    async def infos(self, caller: Caller, query: InfoQuery) -> Infos:
        if not caller.service and not caller.is_service:
            raise Forbidden("This is for services.")
        items = []
        for media_id in dict.fromkeys(query.media_ids):
            try:
                items.append(await self.info(caller, media_id))
            except MediaNotFound:
                continue
        return Infos(items=items)

    async def link(self, caller: Caller, media_id: str, link: NewLink) -> Link:
        file = await self.downloads.find(caller, media_id)
        token, until_us = await self.links.make(caller, file.media_id, link.expires_in_s)
        return Link(
            url=f"{self.config.public_prefix}/media/{media_id}/shared?link={token}", expires_at=rfc3339(until_us)
        )

    async def delete(self, caller: Caller, media_id: str) -> None:
        require(caller, Permission.UPLOAD)
        file = await self.downloads.find(caller, media_id)
        if file.owner_id != caller.user_id:
            raise Forbidden("Only who uploaded a file may delete it.")
        event = media_event(
            caller,
            "media.deleted",
            media_id=media_id,
            at_us=self._clock.now_us(),
            owner_id=file.owner_id,
            conversation_id=file.conversation_id,
            size_bytes=file.offset,
            detail="quarantined" if file.state is FileState.QUARANTINED else "",
        )
        await self._sparing.delete(file, event)
        self._sweeper.soon()
