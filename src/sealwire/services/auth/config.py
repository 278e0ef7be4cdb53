"""Auth's settings."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from sealwire.kit.caller import SYSTEM_TENANT


class LegacyIssuer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An issuer of tokens in the legacy format (`[[auth.legacy]]`). `key`: PEM, or for HS256 the secret.

    Its keys are never keys of ours. `sunset` is the RFC 3339 time after which its tokens are refused.
    """

    key: str
    alg: Literal["EdDSA", "RS256", "ES256", "HS256"]
    tenant: str
    kid: str = ""
    iss: str = ""
    max_age_s: Annotated[int, Meta(ge=60, le=31_536_000)] = 86_400
    sunset: str = ""

    def __post_init__(self) -> None:
        if bool(self.kid) == bool(self.iss):
            raise ValueError("a legacy issuer is named by `kid` or by `iss`")


class ExternalProvider(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An identity provider people may sign in through (`[[auth.providers]]`), for one tenant.

    `sign_up`: who has no account gets one. `trust_email`: then also with an address the provider did not verify.
    """

    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
    issuer: Annotated[str, Meta(pattern=r"^https?://[^\s?#@]+$", max_length=256)]
    client_id: Annotated[str, Meta(min_length=1, max_length=256)]
    client_secret: str = ""
    scopes: tuple[str, ...] = ("openid", "profile", "email")
    tenant: str = "default"
    sign_up: bool = False
    trust_email: bool = False
    label: str = ""

    def __post_init__(self) -> None:
        if "openid" not in self.scopes:
            raise ValueError("a provider is asked for the scope openid")
        if self.sign_up and self.tenant == SYSTEM_TENANT:
            raise ValueError("operators are invited: nobody signs up in the tenant `system`")


class AuthConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Who may come in, for how long, and at what cost."""

    issuer: Annotated[
        str,
        Meta(
            description="`iss` of our tokens: the URL people reach this installation at; unset: `server.public_url`",
            min_length=1,
        ),
    ] = "https://sealwire.local"
    audience: Annotated[str, Meta(description="`aud` of our access tokens", min_length=1)] = "sealwire"
    client_id: Annotated[str, Meta(description="`client_id` of tokens given to our own front ends", min_length=1)] = (
        "sealwire"
    )
    registration: Annotated[
        Literal["open", "invite", "closed"], Meta(description="Who may register: anybody, people invited, nobody")
    ] = "open"
    owner_token: Annotated[
        str, Meta(description="One-time token the first person to register must show; empty: none is needed")
    ] = ""
    users_per_tenant: Annotated[int, Meta(description="Most users in one tenant", ge=1, le=10_000_000)] = 100_000

    access_ttl_s: Annotated[int, Meta(description="Life of an access token, in seconds", ge=30, le=3_600)] = 600
    leeway_s: Annotated[int, Meta(description="How far clocks may differ, in seconds", ge=0, le=60)] = 5
    refresh_grace_s: Annotated[
        float,
        Meta(
            description="How long the same client may use a refresh token again and gets the same successor",
            ge=0,
            le=120,
        ),
    ] = 5.0
    session_idle_s: Annotated[
        int, Meta(description="A session ends when unused for so long, in seconds", ge=300, le=31_536_000)
    ] = 14 * 86_400
    session_absolute_s: Annotated[
        int, Meta(description="A session ends so long after login at the latest", ge=300, le=31_536_000)
    ] = 30 * 86_400
    sessions_per_user: Annotated[
        int, Meta(description="Most sessions of one user; the oldest ends", ge=1, le=10_000)
    ] = 100
    session_record_days: Annotated[
        int,
        Meta(description="Days a session that is over is on record; a retention policy may ask for less", ge=1),
    ] = 30
    revocation_keep_s: Annotated[
        int, Meta(description="How long a revocation stays in the feed, in seconds", ge=7_200, le=31_536_000)
    ] = 172_800
    signing_alg: Annotated[
        Literal["EdDSA", "RS256", "ES256"], Meta(description="Algorithm of new signing keys for access tokens")
    ] = "EdDSA"
    key_publish_s: Annotated[
        int, Meta(description="How long a new signing key is published before it signs", ge=0, le=86_400)
    ] = 300

    password_memory_kib: Annotated[int, Meta(description="argon2id memory per hash", ge=8, le=1_048_576)] = 19_456
    password_passes: Annotated[int, Meta(description="argon2id passes over the memory", ge=1, le=64)] = 2
    breached_passwords: Annotated[
        str,
        Meta(
            description="File of passwords refused beside the built-in list: sorted SHA-1 in upper-case hex, or one"
            " password a line; empty: none"
        ),
    ] = ""
    hash_threads: Annotated[int, Meta(description="Password hashes computed at once", ge=1, le=64)] = 2
    hash_max_waiting: Annotated[int, Meta(description="Logins that may wait for a hash", ge=1, le=10_000)] = 256

    lockout_free: Annotated[
        int, Meta(description="Failures of an address on an account before it has to wait", ge=1)
    ] = 5
    lockout_free_account: Annotated[int, Meta(description="Failures on an account before all have to wait", ge=1)] = 25
    lockout_free_ip: Annotated[int, Meta(description="Failures of an address on any account before it waits", ge=1)] = (
        300
    )
    lockout_base_s: Annotated[float, Meta(description="First wait; doubles with every failure", gt=0, le=3_600)] = 2.0
    lockout_cap_s: Annotated[float, Meta(description="Longest wait", gt=0, le=86_400)] = 900.0
    lockout_forget_s: Annotated[
        int, Meta(description="Failures of an address are forgotten so long after the last one", ge=60, le=604_800)
    ] = 3_600
    lockout_forget_account_s: Annotated[
        int,
        Meta(description="Failures on an account from all addresses, so long after the last one", ge=60, le=604_800),
    ] = 86_400

    mfa_ttl_s: Annotated[int, Meta(description="Time for the second factor, in seconds", ge=30, le=3_600)] = 300
    totp_drift_steps: Annotated[
        int,
        Meta(description="Steps of 30 s a code of an authenticator app may be early or late; 0: none", ge=0, le=1),
    ] = 1
    mfa_attempts: Annotated[int, Meta(description="Wrong codes per login", ge=1, le=20)] = 5
    reset_ttl_s: Annotated[
        int, Meta(description="How long the link of a password reset works, in seconds", ge=60, le=86_400)
    ] = 1_800
    resets_per_hour: Annotated[
        int,
        Meta(description="Letters for a password reset a user gets an hour, and as many by administrators", ge=1),
    ] = 3
    email_change_ttl_s: Annotated[
        int, Meta(description="How long the link to confirm a new e-mail address works, in seconds", ge=60, le=604_800)
    ] = 86_400
    email_changes_per_hour: Annotated[
        int, Meta(description="Changes of the e-mail address that may be asked for one user an hour", ge=1)
    ] = 3
    invitation_ttl_s: Annotated[
        int, Meta(description="How long an invitation works, in seconds", ge=60, le=31_536_000)
    ] = 7 * 86_400
    invitations_per_tenant: Annotated[int, Meta(description="Most open invitations of a tenant", ge=1)] = 10_000

    api_key_max_s: Annotated[int, Meta(description="Longest life of an API key, in seconds", ge=60, le=31_536_000)] = (
        365 * 86_400
    )
    api_key_notice_days: Annotated[
        int,
        Meta(
            description="How long before its end an API key made for twice as long is told of by mail; 0: never",
            ge=0, le=180,
        ),
    ] = 7  # fmt: skip
    api_keys_per_tenant: Annotated[int, Meta(description="Most live API keys of a tenant", ge=1)] = 1_000

    passkey_rp_id: Annotated[
        str,
        Meta(
            description="Domain that passkeys are made for; empty: the host of the first origin. Changing it ends them",
            pattern=r"^$|^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$",
        ),
    ] = ""
    passkey_origins: Annotated[
        tuple[str, ...],
        Meta(description="Origins of pages that may use passkeys; empty: the public address (this machine: localhost)"),
    ] = ()
    passkey_name: Annotated[
        str, Meta(description="What authenticators show as the name of this place", min_length=1, max_length=64)
    ] = "Sealwire"
    passkeys_per_user: Annotated[int, Meta(description="Most passkeys of one user", ge=1, le=100)] = 10
    passkey_ttl_s: Annotated[int, Meta(description="Time to answer with a passkey, in seconds", ge=10, le=3_600)] = 300

    clients_per_tenant: Annotated[int, Meta(description="Most apps that sign people of a tenant in", ge=1)] = 100
    outward_networks: Annotated[
        tuple[str, ...],
        Meta(
            description="Networks (`10.1.0.0/16`) in which apps and identity providers may be called, beside public "
            "addresses; by plain http on this machine only"
        ),
    ] = ()

    mail_from: Annotated[
        str, Meta(description="Sender of letters", min_length=3, pattern=r"^[^\r\n\x00]+@[^\r\n\x00]+$")
    ] = "sealwire@localhost"
    smtp_host: Annotated[str, Meta(description="Mail server; empty: letters go into the folder `outbox/`")] = ""
    smtp_port: Annotated[int, Meta(description="Port of the mail server", ge=1, le=65_535)] = 587
    smtp_tls: Annotated[
        Literal["starttls", "tls", "none"], Meta(description="How the way to the mail server is protected")
    ] = "starttls"
    smtp_user: Annotated[str, Meta(description="Name at the mail server; empty: none")] = ""
    smtp_password: Annotated[str, Meta(description="Password at the mail server")] = ""
    mfa_tenants: Annotated[
        tuple[str, ...],
        Meta(description="Tenants (id or slug, `*`: all) that ask for a second factor; who has none may only enrol"),
    ] = ()
    providers: Annotated[
        tuple[ExternalProvider, ...],
        Meta(description="Identity providers people may sign in through (OpenID Connect)"),
    ] = ()
    legacy: Annotated[
        tuple[LegacyIssuer, ...], Meta(description="Issuers of the legacy token format still accepted")
    ] = ()
