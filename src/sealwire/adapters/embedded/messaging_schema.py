"""The tables of messaging's file, and how its numbers are made of two."""

from __future__ import annotations

from sealwire.adapters.embedded.disposals import DISPOSALS_LEFT, DISPOSALS_SCHEMA
from sealwire.adapters.embedded.holds import HOLDS_SCHEMA
from sealwire.adapters.embedded.outbox import POSITIONS_SCHEMA

# A message's key is its conversation's number (31 bits) above its `seq` (32 bits): one b-tree, a conversation's
# messages side by side in order, and no second index. An event's `stream` is made the same way of its offset.
SEQ_BITS = 32
LAST = (1 << SEQ_BITS) - 1

# Who is erased for good or kept without being processed.
SUBJECT_SCHEMA = """
CREATE TABLE subject_mark (
    tenant_id TEXT NOT NULL,
    subject_id TEXT NOT NULL,
    mark TEXT NOT NULL,
    PRIMARY KEY (tenant_id, subject_id)
) WITHOUT ROWID;
"""
# What a tombstone still is (`kept`: see messaging_keeping.py), and which conversations' content is gone, for those who
# keep more of them elsewhere.
KEEPING_SCHEMA = """
ALTER TABLE message ADD COLUMN kept INTEGER NOT NULL DEFAULT 0;
CREATE INDEX message_kept ON message (kept, key) WHERE kept > 0;
CREATE INDEX conversation_tenant ON conversation (tenant_id, num);
CREATE TABLE forgotten (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id TEXT NOT NULL,
    conversation_id TEXT NOT NULL,
    at_us INTEGER NOT NULL
);
"""
# In which conversations somebody may have left something: sat there, or was mentioned. Written when people join, and
# with the rare message that mentions them, never with a plain one; it outlives the seat. What a person wrote is found
# by it without an index of all messages by their author, which every send would have to pay for.
TRACE_SCHEMA = """
CREATE TABLE trace (
    user_id TEXT NOT NULL,
    conversation INTEGER NOT NULL,
    PRIMARY KEY (user_id, conversation)
) WITHOUT ROWID;
CREATE INDEX trace_of ON trace (conversation);
CREATE TRIGGER conversation_trace AFTER DELETE ON conversation BEGIN
    DELETE FROM trace WHERE conversation = OLD.num;
END;
CREATE TRIGGER member_trace AFTER INSERT ON member BEGIN
    INSERT OR IGNORE INTO trace VALUES (NEW.user_id, NEW.conversation);
END;
CREATE TRIGGER mention_trace AFTER INSERT ON message WHEN NEW.meta IS NOT NULL BEGIN
    INSERT OR IGNORE INTO trace
        SELECT j.value, NEW.key >> 32 FROM json_each(CAST(NEW.meta AS TEXT), '$.mentions') j;
END;
INSERT OR IGNORE INTO trace SELECT user_id, conversation FROM member;
INSERT OR IGNORE INTO trace SELECT DISTINCT sender_id, key >> 32 FROM message;
INSERT OR IGNORE INTO trace SELECT DISTINCT user_id, key >> 32 FROM reaction;
INSERT OR IGNORE INTO trace SELECT DISTINCT j.value, m.key >> 32
    FROM message m, json_each(CAST(m.meta AS TEXT), '$.mentions') j WHERE m.meta IS NOT NULL;
"""
# What a hold covers of what was replaced: see messaging_former.py.
FORMER_SCHEMA = """
CREATE TABLE former_title (
    num INTEGER PRIMARY KEY AUTOINCREMENT,
    conversation INTEGER NOT NULL,
    title BLOB NOT NULL,
    until_us INTEGER NOT NULL
);
CREATE INDEX former_title_of ON former_title (conversation);
CREATE TABLE former_reaction (
    num INTEGER PRIMARY KEY AUTOINCREMENT,
    key INTEGER NOT NULL,
    emoji TEXT NOT NULL,
    user_id TEXT NOT NULL,
    at_us INTEGER NOT NULL,
    until_us INTEGER NOT NULL
);
CREATE INDEX former_reaction_of ON former_reaction (key);
CREATE INDEX former_reaction_by ON former_reaction (user_id);
"""
# Who sat where, in which role, until they left or got another: as far as a hold covers it.
SEATS_SCHEMA = """
CREATE TABLE former_seat (
    num INTEGER PRIMARY KEY AUTOINCREMENT,
    conversation INTEGER NOT NULL,
    user_id TEXT NOT NULL,
    role TEXT NOT NULL,
    joined_at_us INTEGER NOT NULL,
    read_seq INTEGER NOT NULL,
    until_us INTEGER NOT NULL
);
CREATE INDEX former_seat_of ON former_seat (conversation);
CREATE INDEX former_seat_by ON former_seat (user_id);
"""
# Which files are attached to which messages, as long as these say so: media asks before a file goes what holds keep.
ATTACHMENT_SCHEMA = """
CREATE TABLE attachment (
    media_id TEXT NOT NULL,
    key INTEGER NOT NULL,
    PRIMARY KEY (media_id, key)
) WITHOUT ROWID;
CREATE INDEX attachment_of ON attachment (key);
CREATE TRIGGER message_attached AFTER INSERT ON message WHEN NEW.meta IS NOT NULL BEGIN
    INSERT OR IGNORE INTO attachment
        SELECT j.value, NEW.key FROM json_each(CAST(NEW.meta AS TEXT), '$.attachments') j;
END;
CREATE TRIGGER message_detached AFTER UPDATE OF meta ON message WHEN OLD.meta IS NOT NULL BEGIN
    DELETE FROM attachment WHERE key = OLD.key;
    INSERT OR IGNORE INTO attachment
        SELECT j.value, NEW.key FROM json_each(CAST(NEW.meta AS TEXT), '$.attachments') j;
END;
CREATE TRIGGER message_gone AFTER DELETE ON message WHEN OLD.meta IS NOT NULL BEGIN
    DELETE FROM attachment WHERE key = OLD.key;
END;
INSERT OR IGNORE INTO attachment SELECT j.value, m.key
    FROM message m, json_each(iif(json_valid(CAST(m.meta AS TEXT)), CAST(m.meta AS TEXT), '{}'), '$.attachments') j
    WHERE m.meta IS NOT NULL;
"""
MIGRATIONS = (
    """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('epoch', lower(hex(randomblob(4)))), ('requests_position', '0');

CREATE TABLE conversation (
    num INTEGER PRIMARY KEY AUTOINCREMENT,
    conversation_id TEXT NOT NULL UNIQUE,
    tenant_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    title BLOB,
    pair TEXT UNIQUE,
    created_by TEXT NOT NULL,
    created_at_us INTEGER NOT NULL,
    first_seq INTEGER NOT NULL DEFAULT 1,
    last_seq INTEGER NOT NULL DEFAULT 0,
    last_offset INTEGER NOT NULL DEFAULT 0,
    last_position INTEGER NOT NULL DEFAULT 0,
    member_count INTEGER NOT NULL DEFAULT 0,
    seat_version INTEGER NOT NULL DEFAULT 0,
    removed_at_us INTEGER,
    forgotten INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX conversation_removed ON conversation (removed_at_us) WHERE removed_at_us IS NOT NULL AND forgotten = 0;

CREATE TABLE member (
    num INTEGER PRIMARY KEY AUTOINCREMENT,
    conversation INTEGER NOT NULL REFERENCES conversation (num),
    user_id TEXT NOT NULL,
    role TEXT NOT NULL,
    joined_at_us INTEGER NOT NULL,
    read_seq INTEGER NOT NULL DEFAULT 0,
    UNIQUE (conversation, user_id)
);
CREATE INDEX member_user ON member (user_id, conversation);

CREATE TABLE message (
    key INTEGER PRIMARY KEY,
    message_id BLOB NOT NULL UNIQUE,
    sender_id TEXT NOT NULL,
    client_message_id TEXT NOT NULL,
    request_key BLOB NOT NULL,
    request_hash BLOB NOT NULL,
    sealed BLOB,
    created_at_us INTEGER NOT NULL,
    expires_at_us INTEGER,
    meta BLOB,
    version INTEGER NOT NULL DEFAULT 0,
    edited_at_us INTEGER,
    deleted_at_us INTEGER
);
CREATE INDEX message_expiry ON message (expires_at_us) WHERE expires_at_us IS NOT NULL AND deleted_at_us IS NULL;

-- Which message a request made: `mark` is half of a request key, see messaging_requests.py.
CREATE TABLE request (mark INTEGER NOT NULL, key INTEGER NOT NULL, PRIMARY KEY (mark, key)) WITHOUT ROWID;

CREATE TABLE message_version (
    num INTEGER PRIMARY KEY,
    key INTEGER NOT NULL,
    version INTEGER NOT NULL,
    sealed BLOB NOT NULL,
    at_us INTEGER NOT NULL,
    UNIQUE (key, version)
);

CREATE TABLE reaction (
    key INTEGER NOT NULL,
    emoji TEXT NOT NULL,
    user_id TEXT NOT NULL,
    at_us INTEGER NOT NULL,
    PRIMARY KEY (key, emoji, user_id)
) WITHOUT ROWID;

CREATE TABLE event (
    position INTEGER PRIMARY KEY,
    stream INTEGER NOT NULL UNIQUE,
    kind INTEGER NOT NULL,
    at_us INTEGER NOT NULL,
    seq INTEGER NOT NULL DEFAULT 0,
    actor_kind TEXT NOT NULL,
    actor_id TEXT,              -- NULL: the message's sender
    subject_id TEXT,
    event_id BLOB,              -- NULL: the message's id
    detail BLOB
);
"""
    + POSITIONS_SCHEMA,
    HOLDS_SCHEMA,
    SUBJECT_SCHEMA,
    DISPOSALS_SCHEMA + KEEPING_SCHEMA,
    DISPOSALS_LEFT,
    TRACE_SCHEMA,
    FORMER_SCHEMA,
    SEATS_SCHEMA,
    ATTACHMENT_SCHEMA,
)


def key_of(conversation: int, seq: int) -> int:
    """Return the key of a message, or the stream number of an event."""
    return conversation << SEQ_BITS | seq


def id_bytes(uuid: str) -> bytes:
    """Return a UUID's 16 bytes. Raises: ValueError when it is none."""
    raw = bytes.fromhex(uuid.replace("-", ""))
    if len(raw) != 16:
        raise ValueError("not a UUID")
    return raw


def id_text(raw: bytes) -> str:
    """Return a UUID as text."""
    h = raw.hex()
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"
