"""Uploads: begun, resumed, joined, ended. What was acknowledged is durable; bytes are never held whole in memory."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import msgspec

from sealwire.contracts.media import MediaNotFound, UploadTooLarge
from sealwire.contracts.tenancy import QuotaSource
from sealwire.kit.caller import Caller
from sealwire.kit.clock import US_PER_S, Clock
from sealwire.kit.exchange import Disconnected
from sealwire.kit.ids import new_id
from sealwire.kit.permission import Permission
from sealwire.kit.problem import Conflict, Forbidden, Problem, Unavailable, UnsupportedMedia
from sealwire.ports.events import NewEvent
from sealwire.services.media.access import Access, require
from sealwire.services.media.config import MediaConfig
from sealwire.services.media.events import media_event
from sealwire.services.media.examination import Examination, Facts, Meta, decode_meta, encode
from sealwire.services.media.model import FileState
from sealwire.services.media.ports import MediaStore, StoredFile, StoredSegment
from sealwire.services.media.scanning import Scanner
from sealwire.services.media.sparing import Sparing
from sealwire.services.media.transfers import Stalled, Transfer, Transfers
from sealwire.services.media.vault import SegmentWriter, Vault

_EXAMINATIONS: Final = 1_000
ALGORITHMS: Final[dict[str, Callable[[], Any]]] = {
    "sha1": lambda: hashlib.sha1(usedforsecurity=False),
    "sha256": hashlib.sha256,
    "md5": lambda: hashlib.md5(usedforsecurity=False),
}
"""What `Upload-Checksum` may name: sums against accidents on the way, no security (tus asks for sha1)."""


class OffsetConflict(Conflict):
    """The upload stands elsewhere; `offset` says where. Ask with HEAD and go on from there."""

    code, title = "offset_conflict", "The upload stands at another offset"


class UploadGone(Problem):
    """The upload expired, was ended, or never was."""

    code, title, status = "upload_gone", "There is no such upload any more", 410


class ChecksumMismatch(Problem):
    """The bytes aren't those the checksum is of; nothing of this request was kept (tus: 460)."""

    code, title, status = "checksum_mismatch", "The checksum does not match", 460


class TakenOver(Conflict):
    """Another request of the same client goes on with this upload."""

    code, title = "upload_taken_over", "Another request goes on with this upload"


class Beginning(msgspec.Struct, frozen=True, kw_only=True):
    """How an upload begins. `length` None: it is said later. `parts`: it is joined from these instead of sent."""

    length: int | None
    meta: Meta
    conversation_id: str | None
    partial: bool = False
    parts: tuple[str, ...] = ()


class Checksum(msgspec.Struct, frozen=True, kw_only=True):
    """What the client says of the bytes of one request."""

    algorithm: str
    digest: bytes


class Body:
    """The bytes of one request, read under the watch of its transfer."""

    def __init__(self, *, chunks: AsyncIterator[bytes], transfer: Transfer, checksum: Checksum | None) -> None:
        self._chunks = chunks
        self._transfer = transfer
        self._sum = ALGORITHMS[checksum.algorithm]() if checksum is not None else None
        self._expected = checksum.digest if checksum is not None else b""
        self.cut: Exception | None = None

    @property
    def is_summed(self) -> bool:
        """Whether nothing may count before the last byte was seen."""
        return self._sum is not None

    async def next(self) -> bytes:
        """Return the next bytes, empty at the end. What cuts it short without fault of the caller's is in `cut`."""
        if self.cut is not None:
            return b""
        try:
            data: bytes = await self._transfer.wait(anext, self._chunks, b"")
        except (Disconnected, TakenOver, Stalled, Unavailable) as cut:
            self.cut = cut
            return b""
        if self._sum is not None:
            self._sum.update(data)
        return data

    def verify(self) -> None:
        """Raises: ChecksumMismatch."""
        if self._sum is not None and self._sum.digest() != self._expected:
            raise ChecksumMismatch("Send the bytes of this request again.")


class Uploads:
    """Takes bytes in."""

    def __init__(
        self,
        *,
        store: MediaStore,
        sparing: Sparing,
        vault: Vault,
        access: Access,
        transfers: Transfers,
        scanner: Scanner,
        clock: Clock,
        config: MediaConfig,
        examine: Callable[[StoredFile], None],
        bury: Callable[[], None],
        quotas: QuotaSource | None = None,
    ) -> None:
        """`examine` has a complete file looked at later, `bury` has doomed blobs deleted soon."""
        self._store = store
        self._sparing = sparing
        self._vault = vault
        self._access = access
        self._transfers = transfers
        self._scanner = scanner
        self._clock = clock
        self._config = config
        self._examine = examine
        self._bury = bury
        self._quotas = quotas
        self._examinations: OrderedDict[str, Examination] = OrderedDict()

    async def begin(self, caller: Caller, beginning: Beginning) -> StoredFile:
        """Store a new upload. Raises: UploadTooLarge, QuotaExceeded, UnsupportedMedia, MediaNotFound."""
        require(caller, Permission.UPLOAD)
        self._check_length(beginning.length)
        self._check_type(beginning.meta.claimed_type)
        if beginning.conversation_id is not None:
            await self._access.require_member(caller, beginning.conversation_id)
        now_us = self._clock.now_us()
        media_id = new_id()
        meta = await self._vault.seal_note(
            caller.tenant_id,
            caller.user_id,
            beginning.conversation_id,
            media_id,
            "media-meta",
            encode(beginning.meta),
        )
        file = StoredFile(
            media_id=media_id,
            tenant_id=caller.tenant_id,
            owner_id=caller.user_id,
            conversation_id=beginning.conversation_id,
            state=FileState.OPEN,
            partial=beginning.partial,
            length=beginning.length,
            offset=0,
            meta=meta,
            facts=b"",
            parts=beginning.parts,
            created_at_us=now_us,
            expires_at_us=self._expiry(now_us),
        )
        if beginning.parts:
            return await self._join(caller, file)
        event = self._event(caller, "media.upload.started", file, size_bytes=beginning.length or 0)
        await self._store.create(
            file,
            max_tenant_bytes=await self._room_of(caller.tenant_id),
            most_open=self._config.max_open_uploads,
            max_open_bytes=max(self._config.max_open_bytes, self._config.max_file_bytes),
            event=event,
        )
        if beginning.length == 0:
            return await self._append(caller, file, [], Examination(self._scanner))
        return file

    async def _room_of(self, tenant_id: str) -> int:
        """Return how many bytes the tenant's files may take."""
        own = None if self._quotas is None else (await self._quotas.of(tenant_id)).media_bytes
        return self._config.max_tenant_bytes if own is None else min(own, self._config.max_tenant_bytes)

    async def find(self, caller: Caller, media_id: str) -> StoredFile:
        """Return an upload of the caller. Raises: UploadGone."""
        require(caller, Permission.UPLOAD)
        file = await self._store.file(caller.tenant_id, media_id)
        if file is None or file.owner_id != caller.user_id:
            raise UploadGone
        if file.expires_at_us is not None and file.expires_at_us <= self._clock.now_us():
            raise UploadGone("The upload has expired.")
        return file

    async def position(self, caller: Caller, media_id: str) -> StoredFile:
        """Return where an upload stands. A request that still sends to it is ended first, and what it got counts."""
        await self.find(caller, media_id)
        await self._take_over(media_id)
        return await self.find(caller, media_id)

    async def set_length(self, caller: Caller, media_id: str, length: int) -> None:
        """Say the length of an upload begun without. Raises: OffsetConflict when it was said before, and as `begin`."""
        file = await self.find(caller, media_id)
        self._check_length(length)
        if file.length == length:
            return
        told = await self._store.set_length(
            media_id,
            length,
            max_tenant_bytes=await self._room_of(caller.tenant_id),
            most_open=self._config.max_open_uploads,
            max_open_bytes=max(self._config.max_open_bytes, self._config.max_file_bytes),
        )
        if not told:
            raise OffsetConflict("The length was said before, or the upload is longer.", offset=file.offset)

    async def receive(
        self, caller: Caller, media_id: str, offset: int, chunks: AsyncIterator[bytes], checksum: Checksum | None
    ) -> StoredFile:
        """Take bytes at `offset`; on return, and when the client goes away, what was taken is durable.

        Raises: UploadGone, OffsetConflict, UploadTooLarge, ChecksumMismatch, UnsupportedMedia (what the file turned out
        to be is refused), SessionRevoked and MediaNotFound when session or membership ended, Disconnected.
        """
        file = await self.find(caller, media_id)
        if file.conversation_id is not None:
            await self._access.require_member(caller, file.conversation_id)
        await self._take_over(media_id)
        with self._transfers.track(caller, media_id, file.conversation_id, upload=True) as transfer:
            file = await self.find(caller, media_id)
            if file.parts:
                raise Forbidden("A joined upload takes no bytes of its own.")
            if file.offset != offset:
                raise OffsetConflict(f"The upload stands at {file.offset}.", offset=file.offset)
            if file.state is not FileState.OPEN:
                return file
            body = Body(chunks=chunks, transfer=transfer, checksum=checksum)
            return await self._receive(caller, file, body)

    async def end(self, caller: Caller, media_id: str) -> None:
        """Delete an upload or its file (tus termination). Raises: UploadGone."""
        file = await self.find(caller, media_id)
        await self._take_over(media_id)
        await self._delete(caller, file, "media.upload.terminated")

    # ---- how

    async def _receive(self, caller: Caller, file: StoredFile, body: Body) -> StoredFile:
        examination = self._resume_examination(file)
        try:
            while True:
                file, more = await self._segment(caller, file, body, examination)
                if not more:
                    break
        except BaseException:
            self._examinations.pop(file.media_id, None)  # it may have seen bytes that don't count
            raise
        if body.cut is not None:
            raise body.cut
        return file

    async def _segment(
        self, caller: Caller, file: StoredFile, body: Body, examination: Examination | None
    ) -> tuple[StoredFile, bool]:
        """Take one segment of a request's bytes; return where the upload stands, and whether there may be more."""
        data = await body.next()
        if not data:
            if body.cut is None:
                body.verify()
            return file, False
        writer = await self._vault.writer(
            file.tenant_id, file.owner_id, file.conversation_id, file.media_id, file.offset
        )
        try:
            data = await self._fill(file, body, writer, examination, data)
            if not data and body.is_summed:
                if body.cut is not None:
                    raise body.cut
                body.verify()
            segment = await writer.finish()
        except BaseException:
            await writer.abort()
            raise
        return await self._append(caller, file, [segment], examination), bool(data)

    async def _fill(
        self, file: StoredFile, body: Body, writer: SegmentWriter, examination: Examination | None, data: bytes
    ) -> bytes:
        """Write until the body ends (empty is returned) or it is time to make durable what has come."""
        limit = self._config.max_file_bytes if file.length is None else file.length
        while data:
            if file.offset + writer.length + len(data) > limit:
                raise UploadTooLarge(f"The upload is longer than the {limit} bytes it may have.", limit_bytes=limit)
            if examination is not None:
                await examination.feed(data)
            await writer.write(data)
            if not body.is_summed and writer.length >= self._config.checkpoint_bytes:
                return data
            data = await body.next()
        return b""

    async def _append(
        self, caller: Caller, file: StoredFile, segments: list[StoredSegment], examination: Examination | None
    ) -> StoredFile:
        """Make new segments count, and the file complete when they are its last."""
        offset = file.offset + sum(segment.length for segment in segments)
        state, facts = FileState.OPEN, b""
        events: list[NewEvent] = []
        expires_at_us: int | None = self._expiry(self._clock.now_us())
        if offset == file.length:
            self._examinations.pop(file.media_id, None)
            if file.partial:
                state = FileState.PARTIAL
            else:
                state, facts = await self._conclusion(caller, file, examination)
                expires_at_us = None
                events.append(self._event(caller, "media.uploaded", file, size_bytes=offset))
                if state is FileState.QUARANTINED:
                    events.append(self._event(caller, "media.quarantined", file, size_bytes=offset))
        elif examination is not None:
            self._keep_examination(file.media_id, examination)
        added = await self._store.append(
            file.media_id,
            offset=file.offset,
            segments=segments,
            state=state,
            facts=facts,
            expires_at_us=expires_at_us,
            events=events,
        )
        if not added:
            await self._vault.drop(segments)
            there = await self.find(caller, file.media_id)
            raise OffsetConflict(f"The upload stands at {there.offset}.", offset=there.offset)
        file = msgspec.structs.replace(file, offset=offset, state=state, facts=facts, expires_at_us=expires_at_us)
        if state is FileState.SCANNING:
            self._examine(file)
        return file

    async def _conclusion(
        self, caller: Caller, file: StoredFile, examination: Examination | None
    ) -> tuple[FileState, bytes]:
        """Say what a complete file is, if this process saw all of it; else it is looked at later."""
        if examination is None or examination.position != file.length:
            return FileState.SCANNING, b""
        meta = await self.meta(file)
        facts = await examination.finish(meta.claimed_type)
        if facts.content_type in self._config.blocked_types:
            await self._delete(caller, file, "media.refused")
            raise UnsupportedMedia(f"Files of type {facts.content_type} are not taken here.")
        return verdict(facts), await self.seal_facts(file, facts)

    async def _join(self, caller: Caller, file: StoredFile) -> StoredFile:
        file = msgspec.structs.replace(file, state=FileState.SCANNING, expires_at_us=None)
        event = self._event(caller, "media.uploaded", file)
        limit = await self._room_of(caller.tenant_id)
        if not await self._store.join(file, event=event, max_tenant_bytes=limit):
            raise MediaNotFound("A part is not there, or not complete.")
        found = await self._store.file(file.tenant_id, file.media_id)
        if found is None:
            raise UploadGone
        if found.offset > self._config.max_file_bytes:
            await self._delete(caller, found, "media.refused")
            self._check_length(found.offset)
        self._examine(found)
        return found

    async def meta(self, file: StoredFile) -> Meta:
        """Return what the uploader said of a file. Raises: what crypto raises."""
        return decode_meta(
            await self._vault.open_note(
                file.tenant_id, file.owner_id, file.conversation_id, file.media_id, "media-meta", file.meta
            )
        )

    async def seal_facts(self, file: StoredFile, facts: Facts) -> bytes:
        """Seal what was found out about a file."""
        return await self._vault.seal_note(
            file.tenant_id, file.owner_id, file.conversation_id, file.media_id, "media-facts", encode(facts)
        )

    async def _take_over(self, media_id: str) -> None:
        """End the request that still sends to this upload: its connection is half open (RFC 9293 section 3.5.1)."""
        while (transfer := self._transfers.upload(media_id)) is not None:
            transfer.end(TakenOver())
            await transfer.ended.wait()

    async def _delete(self, caller: Caller, file: StoredFile, kind: str) -> None:
        self._examinations.pop(file.media_id, None)
        await self._sparing.delete(file, self._event(caller, kind, file, size_bytes=file.offset))
        self._bury()

    def _resume_examination(self, file: StoredFile) -> Examination | None:
        """Return the look at this file that came as far as the file did, if there is one."""
        if file.partial:
            return None
        examination = self._examinations.pop(file.media_id, None)
        if examination is None and file.offset == 0:
            examination = Examination(self._scanner)
        return examination if examination is not None and examination.position == file.offset else None

    def _keep_examination(self, media_id: str, examination: Examination) -> None:
        self._examinations[media_id] = examination
        while len(self._examinations) > _EXAMINATIONS:
            self._examinations.popitem(last=False)

    def _check_length(self, length: int | None) -> None:
        limit = self._config.max_file_bytes
        if length is not None and length > limit:
            raise UploadTooLarge(f"A file may have {limit} bytes.", limit_bytes=limit)

    def _check_type(self, claimed: str) -> None:
        if claimed in self._config.blocked_types:
            raise UnsupportedMedia(f"Files of type {claimed} are not taken here.")

    def _expiry(self, now_us: int) -> int:
        return now_us + self._config.upload_expires_s * US_PER_S

    def _event(self, caller: Caller, kind: str, file: StoredFile, *, size_bytes: int = 0) -> NewEvent:
        return media_event(
            caller,
            kind,
            media_id=file.media_id,
            at_us=self._clock.now_us(),
            owner_id=file.owner_id,
            conversation_id=file.conversation_id,
            size_bytes=size_bytes,
            outcome="denied" if kind in ("media.refused", "media.quarantined") else "success",
        )


def verdict(facts: Facts) -> FileState:
    """Return the state that what was found means."""
    return FileState.QUARANTINED if facts.found else FileState.CLEAN
