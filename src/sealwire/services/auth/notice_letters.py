"""What notices say: what changed or looks wrong, when, from where, and what to do if it was somebody else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from sealwire.kit.clock import rfc3339
from sealwire.services.auth.events import Body, Fact, Kind
from sealwire.services.auth.letters import greeting


class Change(msgspec.Struct, frozen=True):
    """A change a person hears of. `said` follows "at <site>:"; `advice` is for who did not do it.

    `reminder`: it will come by itself, nobody did anything; `advice` is for everybody.
    """

    subject: str
    said: str
    advice: str
    reminder: bool = False


_ANEW: Final = (
    'set the password anew ("Forgotten password" on the login page), look at your passkeys, authenticator app and '
    "linked identities, which a new password leaves as they are, and tell an administrator."
)
_ACCESS_ADVICE: Final = "end all your sessions, set the password anew, and tell an administrator."
_MOVED: Final = Change(
    "Your e-mail address was changed",
    "this is the e-mail address of your account no longer; letters go to another one.",
    "tell an administrator.",
)
_GUESSED: Final = Change(
    "A login after many attempts",
    "somebody logged in to your account after several attempts that failed.",
    _ACCESS_ADVICE,
)
_STOPPED_AT_THE_FACTOR: Final = Change(
    "Somebody knows your password",
    "somebody gave your password, or came by a way in that is linked to your account, and then failed at the second "
    "factor several times. They did not get in.",
    "set the password anew: they know it.",
)
_COPIED: Final = Change(
    "A session of yours was ended",
    "a session of yours was ended: what keeps it open was used twice, by two clients or long after its time, as a "
    "copy of it would be.",
    "look at your device and end all your sessions: somebody may have copied what was on it.",
)
MANY_FAILURES: Final = 5
"""So many failed attempts before a login, or so many at the second factor, are told to their person."""
TELLING: Final[Mapping[str, Fact]] = {
    "member": "email",
    "failed_before": MANY_FAILURES,
    "failed_in_a_row": MANY_FAILURES,
}
"""Facts with which an event of any kind is told, if events of that kind ever are."""
_CHANGES: Final[Mapping[Kind, Change]] = {
    Kind.PASSWORD_CHANGED: Change(
        "Your password was changed",
        "your password was changed. Every other session and every API key of yours has ended.",
        _ANEW,
    ),
    Kind.PASSWORD_RESET: Change(
        "Your password was set anew",
        "your password was set anew by a link that was sent to this address. Every session and every API key of yours "
        "has ended. Your passkeys, authenticator app and linked identities are as they were.",
        _ANEW,
    ),
    Kind.TOTP_CONFIRMED: Change(
        "An authenticator app was set up",
        "an authenticator app was set up for your account, in the place of one before it, with new recovery codes; "
        "older codes count no longer.",
        _ACCESS_ADVICE,
    ),
    Kind.TOTP_REMOVED: Change(
        "Your authenticator app was removed", "your authenticator app was removed from your account.", _ACCESS_ADVICE
    ),
    Kind.PASSKEY_ADDED: Change(
        "A passkey was added", "a passkey was added to your account; it lets in without the password.", _ACCESS_ADVICE
    ),
    Kind.PASSKEY_REMOVED: Change("A passkey was removed", "a passkey was removed from your account.", _ACCESS_ADVICE),
    Kind.PASSKEY_SUSPENDED: Change(
        "A passkey was suspended",
        "a passkey of yours was suspended: its counter went back, as that of a copy would. It lets nobody in any more. "
        "Log in by another factor or a recovery code, remove it and make a new one; without either an administrator "
        "can reset your factors.",
        "somebody may have a copy of it: tell an administrator.",
    ),
    Kind.FACTORS_RESET: Change(
        "Your second factors were reset",
        "your authenticator app, passkeys and recovery codes were removed, so that you can get in again. Every session "
        "and every API key of yours has ended. Log in and set up a factor anew.",
        "log in at once, change the password, and tell another administrator.",
    ),
    Kind.EMAIL_CHANGE_ASKED: Change(
        "Another e-mail address was asked for",
        "somebody asked to use another e-mail address for your account. This one holds until the other is confirmed.",
        "change the password: that voids what was asked for. Then tell an administrator.",
    ),
    Kind.EMAIL_CHANGED: _MOVED,
    Kind.RECOVERY_MADE: Change(
        "New recovery codes were made",
        "new recovery codes were made for your account; those before them count no longer.",
        _ACCESS_ADVICE,
    ),
    Kind.RECOVERY_USED: Change(
        "A recovery code was used", "a recovery code of yours was used; it is good no longer.", _ACCESS_ADVICE
    ),
    Kind.API_KEY_ADDED: Change(
        "An API key was made",
        "an API key was made in your name, or by you for a service account.",
        "end the key, set the password anew, and tell an administrator.",
    ),
    Kind.IDENTITY_LINKED: Change(
        "An identity was linked to your account",
        "an identity at another provider was linked to your account; whoever has it can log in by it.",
        "unlink it, end all your sessions, and tell an administrator.",
    ),
    Kind.IDENTITY_UNLINKED: Change(
        "An identity was unlinked from your account",
        "an identity at another provider was unlinked from your account.",
        _ACCESS_ADVICE,
    ),
}


def change_of(kind: Kind, body: Body) -> Change | None:
    """Return what its person hears of an event; None for what changes nothing and looks as it should."""
    if kind is Kind.PROFILE_CHANGED:
        return _MOVED if body.facts.get("member") == "email" else None
    if kind is Kind.LOGIN:
        return _GUESSED if int(body.facts.get("failed_before") or 0) >= MANY_FAILURES else None
    if kind is Kind.MFA_FAILED:
        failed = int(body.facts.get("failed_in_a_row") or 0)
        return _STOPPED_AT_THE_FACTOR if failed and failed % MANY_FAILURES == 0 else None
    if kind is Kind.TOKEN_REUSED:
        return _COPIED
    if kind is Kind.API_KEY_ENDING:
        return _ending(body)
    return _CHANGES.get(kind) if body.outcome == "success" or kind is Kind.PASSKEY_SUSPENDED else None


def _ending(body: Body) -> Change:
    whose = "of a service account" if body.facts.get("keeper") else "of yours"
    return Change(
        "An API key ends soon",
        f"an API key {whose}, the one that begins with {body.facts.get('prefix')}, ends at {body.facts.get('ends_at')}."
        " What uses it will be refused from then on.",
        "If it is needed for longer, make a new key, put it in the place of the old one, and end that.",
        reminder=True,
    )


def notice_subject(change: Change) -> str:
    """Word the subject."""
    return f"Sealwire: {change.subject[0].lower()}{change.subject[1:]}"


def notice_text(change: Change, *, display_name: str, site: str, at_us: int, ip: str, by_other: bool) -> str:
    """Word the letter. `ip` and `display_name` may be empty; `by_other`: not in a session of the person."""
    if change.reminder:
        return f"{greeting(display_name)}\n\nat {site}, {change.said}\n\n{change.advice}\n"
    where = f"From: {ip}\n" if ip and not by_other else ""
    who = "By: an administrator, or somebody who acted for one\n" if by_other else ""
    return (
        f"{greeting(display_name)}\n\n"
        f"at {site}, {change.said}\n\n"
        f"When: {rfc3339(at_us)}\n{who}{where}\n"
        "If you know of it, there is nothing to do.\n"
        f"If not: {change.advice}\n"
    )
