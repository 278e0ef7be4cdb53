"""Messaging's own words: what is stored, and the pure rules about it."""

from __future__ import annotations

import unicodedata
from typing import Any, Literal, NamedTuple

import msgspec

from sealwire.contracts.messages import MAX_BODY_BYTES, BodyTooLong, Draft, History
from sealwire.contracts.messaging_terms import DirectIsFixed, MemberRole, MemberRoleNeeded
from sealwire.kit.caller import Caller
from sealwire.kit.problem import Invalid

ConversationKind = Literal["direct", "group", "channel"]
MAX_EMOJI_BYTES = 64
_RANK: dict[str, int] = {"reader": 0, "member": 1, "moderator": 2, "owner": 3}


class Actor(NamedTuple):
    """Who did it: the kind of principal and the person it acts as; of an API key `kind` names the key (`kind_of`)."""

    kind: str
    id: str


_CURSOR_DIGITS = 18
_API_KEY = "api_key"


def actor_of(caller: Caller) -> Actor:
    """Return the actor of a call."""
    return Actor(kind_of(caller), caller.principal.subject)


def kind_of(caller: Caller) -> str:
    """Return the kind of principal, of an API key with the key's id: conversations see its owner, the audit log it."""
    principal = caller.principal
    return f"{_API_KEY}:{principal.session_id}" if principal.kind == _API_KEY else principal.kind


def audited(kind: str, user_id: str) -> Actor:
    """Return the actor as the audit log names it, from what `kind_of` told."""
    type_, _, key_id = kind.partition(":")
    return Actor(type_, key_id or user_id)


class Seat(msgspec.Struct, frozen=True, kw_only=True):
    """A membership as sends need it. `version` rises with every change of the conversation's members."""

    tenant_id: str
    conversation_id: str
    kind: ConversationKind
    user_id: str
    role: MemberRole
    version: int


class ConversationRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A stored conversation. `title` is sealed."""

    conversation_id: str
    tenant_id: str
    kind: ConversationKind
    title: bytes | None
    created_by: str
    created_at_us: int
    first_seq: int = 1
    last_seq: int = 0
    last_offset: int = 0
    member_count: int = 0


class ConversationView(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation and where one member stands in it. `place` orders a member's list, newest event first."""

    record: ConversationRecord
    role: MemberRole
    read_seq: int
    unread: int
    place: int = 0


class MemberRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A stored membership. `place` orders members by when they joined."""

    conversation_id: str
    user_id: str
    role: MemberRole
    joined_at_us: int
    read_seq: int
    place: int


class MessageMeta(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a message carries besides its body; ids and types only, so it is stored as it is."""

    content_type: str = "text/plain"
    reply_to: int | None = None
    attachments: list[str] = []
    mentions: list[str] = []


class Content(msgspec.Struct, frozen=True, array_like=True):
    """What is sealed of a message."""

    body: str
    ciphertexts: list[dict[str, Any]] | None = None


class SealedDraft(msgspec.Struct, kw_only=True):
    """A message on its way into the store.

    `request_key` names (conversation, sender, client_message_id), `request_hash` the whole request: both keyed hashes.
    `carried` stays in this process: it comes back with the announcement of the event, so that nothing is opened again.
    """

    tenant_id: str
    conversation_id: str
    seat_version: int
    message_id: str
    actor_kind: str
    sender_id: str
    client_message_id: str
    request_key: bytes
    request_hash: bytes
    sealed: bytes
    created_at_us: int
    expires_at_us: int | None
    reply_to: int | None
    meta: bytes | None
    carried: Any = None


class StoredMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message as stored. `sealed` is None for a tombstone; `version` counts edits; `reactions` are (emoji, user)."""

    tenant_id: str
    conversation_id: str
    message_id: str
    seq: int
    sender_id: str
    client_message_id: str
    request_hash: bytes
    sealed: bytes | None
    version: int
    created_at_us: int
    edited_at_us: int | None
    expires_at_us: int | None
    deleted_at_us: int | None
    meta: bytes | None
    reactions: list[tuple[str, str]] = []


class Appended(NamedTuple):
    """Where a new message stands."""

    seq: int
    offset: int
    position: int


class SeatStale(Exception):
    """The members changed since the seat was looked up: look again."""


class MessageMoved(Exception):
    """The message changed since it was read: read again."""


_EMPTY_META = MessageMeta()
_encode_meta = msgspec.json.Encoder().encode
_decode_meta = msgspec.json.Decoder(MessageMeta).decode


def meta_of(draft: Draft) -> bytes | None:
    """Return the encoded meta of a draft, None for a plain one."""
    if draft.reply_to is None and not draft.attachments and not draft.mentions and draft.content_type == "text/plain":
        return None
    return _encode_meta(
        MessageMeta(
            content_type=draft.content_type,
            reply_to=draft.reply_to,
            attachments=draft.attachments,
            mentions=draft.mentions,
        )
    )


def read_meta(meta: bytes | None) -> MessageMeta:
    """Read a message's meta."""
    return _EMPTY_META if meta is None else _decode_meta(meta)


def write_meta(meta: MessageMeta) -> bytes | None:
    """Return the encoded meta, None for that of a plain message."""
    return None if meta == _EMPTY_META else _encode_meta(meta)


def check_body(body: str) -> None:
    """Raises: BodyTooLong when `body` takes more than MAX_BODY_BYTES in UTF-8."""
    if len(body) * 4 > MAX_BODY_BYTES and len(body.encode()) > MAX_BODY_BYTES:
        raise BodyTooLong(f"A body has at most {MAX_BODY_BYTES} bytes in UTF-8.", limit_bytes=MAX_BODY_BYTES)


def check_emoji(emoji: str) -> None:
    """Raises: Invalid unless `emoji` is a short printable text without spaces."""
    if not emoji or len(emoji.encode("utf-8", "surrogatepass")) > MAX_EMOJI_BYTES:
        raise Invalid(f"An emoji has 1 to {MAX_EMOJI_BYTES} bytes.", path="$.emoji")
    # Cf stays allowed: zero-width joiners and tags are part of many emoji.
    if any(unicodedata.category(c) in ("Cc", "Cs", "Co", "Cn", "Zs", "Zl", "Zp") for c in emoji):
        raise Invalid("An emoji holds no spaces and no control characters.", path="$.emoji")


def require_post(role: MemberRole) -> None:
    """Raises: MemberRoleNeeded for a reader."""
    if role == "reader":
        raise MemberRoleNeeded("Readers can't post here.")


def require_rank(role: MemberRole, least: MemberRole) -> None:
    """Raises: MemberRoleNeeded when `role` is below `least`."""
    if _RANK[role] < _RANK[least]:
        raise MemberRoleNeeded(f"Only a member with the role {least} or above may do this.")


def require_reach(actor: MemberRole, *roles: MemberRole) -> None:
    """Raises: MemberRoleNeeded unless `actor` may give or take these roles: owners all, moderators those below."""
    require_rank(actor, "moderator")
    if actor != "owner" and any(_RANK[role] >= _RANK[actor] for role in roles):
        raise MemberRoleNeeded("Only an owner may do this with an owner or moderator.")


def require_changeable(kind: ConversationKind) -> None:
    """Raises: DirectIsFixed for a direct conversation."""
    if kind == "direct":
        raise DirectIsFixed


def direct_pair(tenant_id: str, a: str, b: str) -> str:
    """Return the name of the one direct conversation of two people."""
    first, second = sorted((a, b))
    return f"{tenant_id}\n{first}\n{second}"


def history_bounds(query: History) -> tuple[int | None, int | None]:
    """Return (after, before) of a query, from its cursor if it goes on from one. Raises: Invalid."""
    if query.cursor is None:
        return query.after_seq, query.before_seq
    way, _, seq = query.cursor.partition(".")
    known = way in ("after", "before") and seq.isascii() and seq.isdigit() and len(seq) <= _CURSOR_DIGITS
    if not known or query.after_seq is not None or query.before_seq is not None:
        raise Invalid("Give a `next_cursor` as it was, and neither after_seq nor before_seq with it.", path="$.cursor")
    return (int(seq), None) if way == "after" else (None, int(seq))
