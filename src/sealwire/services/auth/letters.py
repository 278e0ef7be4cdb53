"""Letters: what the letters of auth say. Plain text; a token stands in the fragment, which no server gets to see."""

from __future__ import annotations

import re
from typing import Final

_NAME_CHARS: Final = 64
_NO_NAME: Final = re.compile(r"[^\w\s.,'’-]|\.\w|https?|www")
EMAIL_SUBJECT: Final = "Confirm your new e-mail address for Sealwire"
RESET_SUBJECT: Final = "Set your Sealwire password anew"
INVITATION_SUBJECT: Final = "You are invited to Sealwire"


def greeting(display_name: str) -> str:
    """Greet by name, in one line; by none where the name could be read as a link, or is a text of its own.

    Whoever registers with the address of somebody else chooses the name, and the letter comes from us.
    """
    name = " ".join(display_name.split())
    return f"Hello {name}," if name and len(name) <= _NAME_CHARS and not _NO_NAME.search(name) else "Hello,"


def _time(seconds: int) -> str:
    """Word a time in the largest unit that it is whole in: "30 minutes", "1 day"."""
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= length and seconds % length == 0:
            count = seconds // length
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return f"{max(1, seconds // 60)} minutes"


def reset_text(*, display_name: str, site: str, token: str, within_s: int, by_other: bool = False) -> str:
    """Word the letter of a password reset. `by_other`: an administrator asked."""
    who = "an administrator" if by_other else "somebody, probably you,"
    not_you = "If you don't know of it, ask them first; until then" if by_other else "If it was not you, do nothing:"
    return (
        f"{greeting(display_name)}\n\n"
        f"{who} asked to set the password of your account at {site} anew.\n"
        f"Open this link within {_time(within_s)}; it works once:\n\n"
        f"{site}/console#/reset?token={token}\n\n"
        f"{not_you} your password stays as it is.\n"
    )


def email_text(*, site: str, token: str, within_s: int) -> str:
    """Word the letter to a new address. It may not be theirs: the letter says nothing of who asked."""
    return (
        "Hello,\n\n"
        f"somebody asked to use this address for their account at {site}.\n"
        f"If it was you, open this link within {_time(within_s)}; it works once:\n\n"
        f"{site}/console#/email?token={token}\n\n"
        "Until then your account keeps the address it has. If it was not you, do nothing.\n"
    )


def invitation_text(*, site: str, token: str, role: str, days: int, tenant: str) -> str:
    """Word the letter of an invitation. `tenant`: the slug that is given at every login; empty where none is needed."""
    log_in = f"When you log in later, give the tenant as well: {tenant}\n\n" if tenant else ""
    return (
        "Hello,\n\n"
        f"you are invited to join {site} as {role}.\n"
        f"Open this link within {days} days to register; it works once, for this address:\n\n"
        f"{site}/console#/register?invitation={token}\n\n"
        f"{log_in}"
        "If you don't know what this is about, do nothing.\n"
    )
