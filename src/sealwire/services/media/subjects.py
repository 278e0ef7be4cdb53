"""Media's part of a person's rights: their files to read, erased with their keys and their bytes."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

import msgspec

from sealwire.contracts.crypto_terms import DecryptionFailed, KeyUnusable
from sealwire.contracts.custody import (
    ContentPart,
    ContentQuery,
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
from sealwire.contracts.media import MediaInfo, MediaNotFound
from sealwire.kit.caller import Caller
from sealwire.kit.clock import Clock, rfc3339
from sealwire.kit.envelopes import EnvelopeRefused
from sealwire.kit.problem import Invalid
from sealwire.ports.events import NewEvent
from sealwire.services.media.events import media_event
from sealwire.services.media.keeping_ports import Spared
from sealwire.services.media.model import FileState
from sealwire.services.media.ports import DataKeys, MediaStore, StoredFile
from sealwire.services.media.sparing import Sparing
from sealwire.services.media.subject_ports import MediaSubjects
from sealwire.services.media.vault import Vault

CHUNK: Final = 100
_COMPLETE: Final = frozenset({FileState.SCANNING, FileState.CLEAN, FileState.QUARANTINED})


class SubjectFiles:
    """`SubjectCustody` and `SubjectContent` over media's store."""

    def __init__(
        self,
        *,
        store: MediaStore,
        subjects: MediaSubjects,
        sparing: Sparing,
        vault: Vault,
        keys: DataKeys,
        describe: Callable[[StoredFile], Awaitable[MediaInfo]],
        bury: Callable[[], Awaitable[int]],
        clock: Clock,
    ) -> None:
        """`bury` deletes doomed blobs and returns when they are gone."""
        self._store = store
        self._subjects = subjects
        self._sparing = sparing
        self._places: dict[str, str] = {}
        self._vault = vault
        self._keys = keys
        self._describe = describe
        self._bury = bury
        self._clock = clock

    async def export_subject(self, caller: Caller, subject_id: str, query: SubjectQuery) -> SubjectItems:
        """See `SubjectCustody`: what is known of each file; its bytes by `subject_content` where it is complete."""
        tenant_id = require_custodian(caller)
        if query.cursor is not None and not query.cursor.replace("-", "").isalnum():
            raise Invalid("Give a `next_cursor` as it was.", path="$.cursor")
        ids = await self._subjects.owned(tenant_id, subject_id, query.cursor or "", query.limit)
        found = [await self._subjects.file(tenant_id, subject_id, media_id) for media_id in ids]
        items = [await self._item(*owned) for owned in found if owned is not None]
        return SubjectItems(items=items, next_cursor=ids[-1] if len(ids) == query.limit else None)

    async def _item(self, file: StoredFile, deleted_us: int | None) -> SubjectItem:
        try:
            info = await self._describe(file) if file.state in _COMPLETE else None
        except (KeyUnusable, DecryptionFailed, EnvelopeRefused):
            info = None
        data: dict[str, Any] = {"state": file.state.value, "size_bytes": file.offset}
        if info is not None:
            data |= msgspec.to_builtins(info)
        if deleted_us is not None:
            data |= {"former": True, "deleted_at": rfc3339(deleted_us)}
        whole = file.state in _COMPLETE and file.state is not FileState.QUARANTINED
        return SubjectItem(
            kind="file", resource_id=file.media_id, at=info.created_at if info is not None else "", data=data,
            media_id=file.media_id if whole else None,
        )  # fmt: skip

    async def subject_content(self, caller: Caller, subject_id: str, media_id: str, query: ContentQuery) -> ContentPart:
        """See `SubjectContent`."""
        tenant_id = require_custodian(caller)
        owned = await self._subjects.file(tenant_id, subject_id, media_id)
        if owned is None or owned.file.state not in _COMPLETE:
            raise MediaNotFound
        file = owned.file
        end = min(query.offset + query.limit_bytes, file.offset)
        data = await self._read(tenant_id, file, query.offset, end) if query.offset < end else b""
        return ContentPart(data=b64encode(data).decode(), last=end >= file.offset)

    async def _read(self, tenant_id: str, file: StoredFile, start: int, end: int) -> bytes:
        """Return the bytes `start` … `end` (exclusive) of a file, all of them. Raises: MediaDamaged."""
        segments = await self._store.segments(file.media_id)
        return b"".join([piece async for piece in self._vault.read_all(tenant_id, file.owner_id, segments, start, end)])

    async def erase_subject(self, caller: Caller, subject_id: str, erasure: SubjectErasure) -> SubjectErased:
        """See `SubjectCustody`: rows, then the keys, then the bytes; done when the bytes are gone."""
        tenant_id = require_custodian(caller)
        if erasure.check_only:
            await self._subjects.require_free(tenant_id, subject_id)
            return SubjectErased(done=False)

        def event(media_id: str, owner_id: str, conversation_id: str | None, size_bytes: int) -> NewEvent:
            return media_event(
                caller, "media.deleted", media_id=media_id, at_us=self._clock.now_us(), owner_id=owner_id,
                conversation_id=conversation_id, size_bytes=size_bytes, detail="person erased",
            )  # fmt: skip

        async def erase(media_ids: Sequence[str], spared: Spared) -> int:
            return await self._subjects.erase(tenant_id, subject_id, media_ids, event, spared=spared)

        if erasure.job_id not in self._places:
            await self._sparing.deciding(tenant_id, [], partial(erase, []))  # nothing new is taken in
            self._places[erasure.job_id] = ""
        while ids := await self._subjects.free(
            tenant_id, subject_id, self._places[erasure.job_id], min(erasure.limit, CHUNK)
        ):
            gone = await self._sparing.deciding(tenant_id, ids, partial(erase, ids))
            self._places[erasure.job_id] = ids[-1]
            if gone:
                await self._bury()
                return SubjectErased(done=False, erased={"file": gone})
        await self._bury()
        left, spared = await self._left(tenant_id, subject_id)
        del self._places[erasure.job_id]
        if left:  # a hold was released meanwhile
            return SubjectErased(done=False)
        held = await self._subjects.held(tenant_id, subject_id)
        scopes = await self._subjects.scopes(list(spared))
        keys = await self._keys.destroy_free(tenant_id, subject_id=subject_id, spare=scopes)
        await self._subjects.compact()
        kept = {"file": held + len(spared), "data_key": keys.kept}
        return SubjectErased(
            done=True,
            erased={"data_key": keys.destroyed} if keys.destroyed else {},
            kept={kind: count for kind, count in kept.items() if count},
            kept_in=keys.kept_scopes,
            kept_by=sorted(set[str]().union(*spared.values())),
        )

    async def _left(self, tenant_id: str, subject_id: str) -> tuple[int, dict[str, frozenset[str]]]:
        """Return how many files of a person no hold keeps, and which holds keep which with a message."""
        left, kept, place = 0, dict[str, frozenset[str]](), ""
        while ids := await self._subjects.free(tenant_id, subject_id, place, CHUNK):
            spared = (await self._sparing.ask(tenant_id, ids)).holds
            left += len(ids) - len(spared)
            kept.update(spared)
            place = ids[-1]
        return left, kept

    async def rectify_subject(self, caller: Caller, subject_id: str, changes: SubjectChanges) -> SubjectRectified:
        """See `SubjectCustody`. Media knows people by their ids alone."""
        require_custodian(caller)
        return SubjectRectified()

    async def restrict_subject(self, caller: Caller, subject_id: str, restriction: SubjectRestriction) -> None:
        """See `SubjectCustody`: no new files; those there are stay."""
        await self._subjects.restrict(require_custodian(caller), subject_id, restriction.restricted)

    async def probe_subject(self, caller: Caller, subject_id: str, probe: SubjectProbe) -> SubjectFindings:
        """See `SubjectCustody`."""
        left, _ = await self._left(require_custodian(caller), subject_id)
        raw = await self._subjects.count_in_files([word.encode() for word in probe.words])
        return SubjectFindings(places={"files": left, "bytes": raw})
