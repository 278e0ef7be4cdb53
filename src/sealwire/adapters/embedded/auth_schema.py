"""The tables of auth's SQLite file. Every time is in microseconds; names, addresses and secrets are sealed bytes."""

from __future__ import annotations

from typing import Final

from sealwire.adapters.embedded.auth_api_keys import REMINDED_SCHEMA
from sealwire.adapters.embedded.auth_changes import ASKERS_SCHEMA, EMAIL_CHANGES_SCHEMA, ENDING_SCHEMA, NOTICES_SINCE
from sealwire.adapters.embedded.auth_external import EXTERNAL_SCHEMA
from sealwire.adapters.embedded.auth_former import FORMER_SCHEMA
from sealwire.adapters.embedded.auth_keeping import SESSIONS_SCHEMA
from sealwire.adapters.embedded.auth_legacy import LEGACY_SCHEMA
from sealwire.adapters.embedded.auth_letters import RESETS_BY_SCHEMA
from sealwire.adapters.embedded.auth_openid import NOTICES_SCHEMA, OPENID_SCHEMA
from sealwire.adapters.embedded.auth_passkeys import PASSKEYS_SCHEMA, SPENT_SCHEMA
from sealwire.adapters.embedded.auth_proofs import CHALLENGE_AMR_SCHEMA
from sealwire.adapters.embedded.auth_sessions import PLACE_SCHEMA
from sealwire.adapters.embedded.disposals import DISPOSALS_LEFT
from sealwire.adapters.embedded.holds import HOLDS_SCHEMA
from sealwire.adapters.embedded.outbox import OUTBOX_SCHEMA, POSITIONS_SCHEMA

_FIRST: Final = """
CREATE TABLE tenant (
    tenant_id TEXT PRIMARY KEY,
    slug TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    status TEXT NOT NULL,
    owner_claimed INTEGER NOT NULL,
    users INTEGER NOT NULL DEFAULT 0,
    created_us INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE removed_tenant (
    tenant_id TEXT PRIMARY KEY
) WITHOUT ROWID;

CREATE TABLE user (
    user_id TEXT PRIMARY KEY,
    tenant_id TEXT NOT NULL,
    email_index BLOB NOT NULL,
    sealed BLOB NOT NULL,
    role TEXT NOT NULL,
    status TEXT NOT NULL,
    password_hash TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    mfa INTEGER NOT NULL,
    created_us INTEGER NOT NULL
) WITHOUT ROWID;
CREATE UNIQUE INDEX user_email ON user (tenant_id, email_index);
CREATE INDEX user_tenant ON user (tenant_id, user_id);
CREATE INDEX user_owner ON user (tenant_id) WHERE role = 'owner' AND status = 'active';

CREATE TABLE session (
    session_id TEXT PRIMARY KEY,
    tenant_id TEXT NOT NULL,
    user_id TEXT NOT NULL REFERENCES user (user_id) ON DELETE CASCADE,
    epoch INTEGER NOT NULL,
    created_us INTEGER NOT NULL,
    seen_us INTEGER NOT NULL,
    expires_us INTEGER NOT NULL,
    auth_us INTEGER NOT NULL,
    amr TEXT NOT NULL,
    client_id TEXT NOT NULL,
    sealed_secret BLOB NOT NULL,
    sealed_origin BLOB NOT NULL,
    refresh_head INTEGER NOT NULL,
    refresh_uses BLOB NOT NULL,
    ended_us INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX session_live ON session (user_id, session_id) WHERE ended_us = 0;
CREATE INDEX session_user ON session (user_id);
CREATE INDEX session_tenant ON session (tenant_id) WHERE ended_us = 0;
CREATE INDEX session_expiry ON session (expires_us);
CREATE INDEX session_ended ON session (ended_us) WHERE ended_us > 0;

CREATE TABLE revocation (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    change_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    tenant_id TEXT NOT NULL,
    subject TEXT NOT NULL,
    session_id TEXT NOT NULL,
    token_id TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    at_us INTEGER NOT NULL,
    expires_at_s INTEGER NOT NULL,
    reason TEXT NOT NULL
);
CREATE INDEX revocation_token ON revocation (token_id) WHERE token_id <> '';
CREATE INDEX revocation_expiry ON revocation (expires_at_s);

CREATE TABLE attempt (
    key BLOB PRIMARY KEY,
    count INTEGER NOT NULL,
    last_us INTEGER NOT NULL,
    until_us INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX attempt_age ON attempt (last_us);

CREATE TABLE challenge (
    token_hash BLOB PRIMARY KEY,
    tenant_id TEXT NOT NULL,
    user_id TEXT NOT NULL REFERENCES user (user_id) ON DELETE CASCADE,
    expires_us INTEGER NOT NULL,
    attempts INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX challenge_user ON challenge (user_id);

CREATE TABLE totp (
    user_id TEXT PRIMARY KEY REFERENCES user (user_id) ON DELETE CASCADE,
    sealed_secret BLOB,
    last_step INTEGER NOT NULL,
    pending_sealed BLOB,
    pending_until_us INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE recovery_code (
    user_id TEXT NOT NULL REFERENCES user (user_id) ON DELETE CASCADE,
    code_hash BLOB NOT NULL,
    PRIMARY KEY (user_id, code_hash)
) WITHOUT ROWID;

CREATE TABLE signing_key (
    kid TEXT PRIMARY KEY,
    alg TEXT NOT NULL,
    state TEXT NOT NULL,
    sealed_pem BLOB NOT NULL,
    created_us INTEGER NOT NULL,
    verify_until_us INTEGER
) WITHOUT ROWID;

CREATE TABLE secret (
    name TEXT PRIMARY KEY,
    sealed BLOB NOT NULL
) WITHOUT ROWID;
"""

_LETTERS: Final = """
CREATE TABLE reset (
    token_hash BLOB PRIMARY KEY,
    tenant_id TEXT NOT NULL,
    user_id TEXT NOT NULL REFERENCES user (user_id) ON DELETE CASCADE,
    created_us INTEGER NOT NULL,
    expires_us INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX reset_user ON reset (user_id, created_us);
CREATE INDEX reset_expiry ON reset (expires_us);

CREATE TABLE invitation (
    invitation_id TEXT PRIMARY KEY,
    token_hash BLOB NOT NULL UNIQUE,
    tenant_id TEXT NOT NULL,
    email_index BLOB NOT NULL,
    sealed BLOB NOT NULL,
    role TEXT NOT NULL,
    invited_by TEXT NOT NULL,
    created_us INTEGER NOT NULL,
    expires_us INTEGER NOT NULL
) WITHOUT ROWID;
CREATE UNIQUE INDEX invitation_email ON invitation (tenant_id, email_index);
CREATE INDEX invitation_tenant ON invitation (tenant_id, invitation_id);
CREATE INDEX invitation_expiry ON invitation (expires_us);

CREATE TABLE letter (
    letter_id TEXT PRIMARY KEY,
    tenant_id TEXT NOT NULL,
    sealed BLOB NOT NULL,
    created_us INTEGER NOT NULL,
    due_us INTEGER NOT NULL,
    attempts INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX letter_due ON letter (due_us);
"""

_API_KEYS: Final = """
ALTER TABLE user ADD COLUMN service INTEGER NOT NULL DEFAULT 0;

CREATE TABLE api_key (
    key_id TEXT PRIMARY KEY,
    tenant_id TEXT NOT NULL,
    owner_id TEXT NOT NULL REFERENCES user (user_id) ON DELETE CASCADE,
    prefix TEXT NOT NULL UNIQUE,
    secret_hash BLOB NOT NULL,
    name TEXT NOT NULL,
    scopes TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    created_by TEXT NOT NULL,
    created_us INTEGER NOT NULL,
    expires_us INTEGER NOT NULL,
    used_us INTEGER NOT NULL,
    ended_us INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX api_key_owner ON api_key (owner_id);
CREATE INDEX api_key_tenant ON api_key (tenant_id, key_id) WHERE ended_us = 0;
CREATE INDEX api_key_expiry ON api_key (expires_us);
CREATE INDEX api_key_ended ON api_key (ended_us) WHERE ended_us > 0;
"""

_TENANCY: Final = """
ALTER TABLE tenant ADD COLUMN quotas TEXT NOT NULL DEFAULT '';

CREATE TABLE suspended_tenant (
    tenant_id TEXT PRIMARY KEY,
    at_us INTEGER NOT NULL,
    after TEXT NOT NULL
) WITHOUT ROWID;
"""

_SUBJECTS: Final = """
CREATE TABLE erased_user (
    user_id TEXT PRIMARY KEY,
    tenant_id TEXT NOT NULL,
    status TEXT NOT NULL,
    erased_us INTEGER NOT NULL,
    sealed BLOB,
    email_index BLOB,
    event_after INTEGER NOT NULL,
    event_until INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE restriction (
    user_id TEXT PRIMARY KEY REFERENCES user (user_id) ON DELETE CASCADE,
    before TEXT NOT NULL
) WITHOUT ROWID;
"""

MIGRATIONS: Final = (
    _FIRST + OUTBOX_SCHEMA + POSITIONS_SCHEMA,
    _LETTERS,
    _API_KEYS,
    _TENANCY,
    PASSKEYS_SCHEMA,
    _SUBJECTS + HOLDS_SCHEMA,
    OPENID_SCHEMA,
    EXTERNAL_SCHEMA,
    NOTICES_SCHEMA,
    SESSIONS_SCHEMA,
    LEGACY_SCHEMA,
    CHALLENGE_AMR_SCHEMA,
    NOTICES_SINCE,
    DISPOSALS_LEFT,
    EMAIL_CHANGES_SCHEMA,
    ENDING_SCHEMA,
    FORMER_SCHEMA,
    ASKERS_SCHEMA,
    SPENT_SCHEMA,
    RESETS_BY_SCHEMA,
    REMINDED_SCHEMA,
    PLACE_SCHEMA,
)
