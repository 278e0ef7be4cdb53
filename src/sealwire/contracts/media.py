"""What media promises: resumable uploads, downloads by range, links. Streams are raw routes, the rest operations."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Protocol

import msgspec

from sealwire.contracts import custody
from sealwire.kit.caller import Caller
from sealwire.kit.codec import Id, Input, Output
from sealwire.kit.operation import Degraded, Operation, Policy, Repeat, table
from sealwire.kit.permission import Permission
from sealwire.kit.problem import Conflict, Forbidden, NotFound, TooLarge

SERVICE = "media"


class MediaNotFound(NotFound):
    """No such file, or the caller may not read it: which of the two is not told."""

    code, title = "media_not_found", "No such file"


class MediaDamaged(Conflict):
    """A file's bytes are gone or aren't what was stored, or their key can't be used: `reason` says which of these.

    `bytes_missing`, `bytes_refused` or `key_unusable`. Asking again changes nothing.
    """

    code, title = "media_damaged", "The file can't be read any more"


class MediaQuarantined(Forbidden):
    """The scanner found something in it."""

    code, title = "media_quarantined", "The file is in quarantine"


class UploadTooLarge(TooLarge):
    """The upload is larger than the limit; `limit_bytes` tells it."""

    code, title = "upload_too_large", "The file is too large"


class MediaInfo(Output):
    """A file. `sha256` is lowercase hex of the plaintext."""

    media_id: str
    tenant_id: str
    owner_id: str
    filename: str
    content_type: str
    size_bytes: int
    sha256: str
    status: Literal["scanning", "clean", "quarantined"]
    created_at: str
    conversation_id: str | None = None


class NewLink(Input):
    """How long the link works."""

    expires_in_s: Annotated[int, msgspec.Meta(ge=1, le=86_400)] = 300


class Link(Output):
    """A signed link: for this file, until then, and only while the session that asked for it lives."""

    url: str
    expires_at: str


class InfoQuery(Input):
    """Which files, by id."""

    media_ids: Annotated[list[Id], msgspec.Meta(max_length=200)]


class Infos(Output):
    """The files found in the tenant that the caller may read."""

    items: list[MediaInfo]


_READ: dict[str, Any] = {"service": SERVICE, "needs": Permission.READ, "degraded": Degraded.ALLOW}

INFO = Operation(
    name="info",
    verb="GET",
    path="/media/{media_id}/info",
    gives=MediaInfo,
    repeat=Repeat.SAFE,
    summary="What a file is",
    **_READ,
)
LINK = Operation(
    name="link",
    verb="POST",
    path="/media/{media_id}/link",
    takes=NewLink,
    gives=Link,
    service=SERVICE,
    needs=Permission.READ,
    summary="Make an expiring link",
)
DELETE = Operation(
    name="delete",
    verb="DELETE",
    path="/media/{media_id}",
    service=SERVICE,
    needs=Permission.UPLOAD,
    repeat=Repeat.IDEMPOTENT,
    summary="Delete a file (its uploader)",
)
INFOS = Operation(
    name="infos",
    verb="POST",
    path="/media/internal/infos",
    takes=InfoQuery,
    gives=Infos,
    service=SERVICE,
    policy=Policy.SERVICE,
    repeat=Repeat.SAFE,
    degraded=Degraded.ALLOW,
    callers=frozenset({"search"}),
    carriers=frozenset({"search"}),
    summary="Files by id, for services",
)

_CUSTODY = custody.operations(SERVICE, custody.SUBJECT, custody.CONTENT, custody.HOLDS, custody.RETENTION)
OPERATIONS = table(INFO, LINK, DELETE, INFOS, *_CUSTODY)


class Media(custody.Custody, custody.SubjectContent, Protocol):
    """Media, in this process or another. Besides these, raw routes: `/media/uploads` (tus), `GET /media/{media_id}`."""

    async def info(self, caller: Caller, media_id: str) -> MediaInfo:
        """Raises: MediaNotFound."""

    async def link(self, caller: Caller, media_id: str, link: NewLink) -> Link: ...
    async def delete(self, caller: Caller, media_id: str) -> None: ...
    async def infos(self, caller: Caller, query: InfoQuery) -> Infos: ...
