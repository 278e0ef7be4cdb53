"""Problems: what went wrong, told to the caller (RFC 9457). Any other exception is a bug and becomes `internal`."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, ClassVar, Final

_LONGEST_PATH: Final = 512


class Retry(StrEnum):
    """Whether asking again can help."""

    NEVER = "never"
    AFTER = "after"
    NOW = "now"


class Problem(Exception):
    """A failure that is the caller's business.

    Subclasses set `code` (stable, snake_case), `title`, `status` and `retry`; `detail` says what was wrong here and
    what to do. `retry_after_s` becomes the `Retry-After` header; `extra` are further members of the document.
    """

    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Something went wrong on our side"
    status: ClassVar[int] = 500
    retry: ClassVar[Retry] = Retry.NEVER

    def __init__(self, detail: str = "", *, retry_after_s: float | None = None, **extra: Any) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.retry_after_s = retry_after_s
        self.extra = extra

    def document(self, *, instance: str = "", trace_id: str = "") -> dict[str, Any]:
        """Return the problem document's members, ready to be encoded as JSON."""
        return {
            "type": f"https://sealwire.example/problems/{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "instance": instance,
            "code": self.code,
            "retry": self.retry.value,
            "trace_id": trace_id,
            **self.extra,
        }


class Internal(Problem):
    """A bug of ours; the log has the cause under the same trace id, the answer does not."""


class Malformed(Problem):
    """The request is not readable: broken JSON, wrong encoding, a broken header."""

    code, title, status = "malformed", "The request can't be read", 400


class Invalid(Problem):
    """The request is readable and breaks a rule; `path` names the member at fault, `allowed` what it may be."""

    code, title, status = "invalid", "The request breaks a rule", 422

    def __init__(self, detail: str = "", *, retry_after_s: float | None = None, **extra: Any) -> None:
        """A `path` is cut: names of the sender's own making stand in it, of any length."""
        if len(path := str(extra.get("path", ""))) > _LONGEST_PATH:
            extra["path"] = path[:_LONGEST_PATH] + "…"
        super().__init__(detail, retry_after_s=retry_after_s, **extra)


class Unauthenticated(Problem):
    """No valid credential came with the request. Only ever about the credential."""

    code, title, status = "unauthenticated", "A valid credential is needed", 401


class Forbidden(Problem):
    """The caller is known and may not do this."""

    code, title, status = "forbidden", "Not allowed", 403


class EnrolmentRequired(Forbidden):
    """The tenant asks for a second factor, and this session was opened without one."""

    code, title = "mfa_enrolment_required", "Set up a second factor first"


class StepUpRequired(Problem):
    """The operation needs a recent proof of identity; `methods` lists the ways."""

    code, title, status = "step_up_required", "Please confirm that it is you", 403


class NotFound(Problem):
    """There is no such thing, or the caller may not know of it."""

    code, title, status = "not_found", "Not found", 404


class MethodNotAllowed(Problem):
    """The path exists, the method does not."""

    code, title, status = "method_not_allowed", "Method not allowed here", 405


class Conflict(Problem):
    """The request contradicts what is stored."""

    code, title, status = "conflict", "In conflict with what is stored", 409


class QuotaExceeded(Conflict):
    """The tenant has as many of these as it may have."""

    code, title = "quota_exceeded", "The tenant's quota is used up"


class TooLarge(Problem):
    """The body is larger than the limit; `limit_bytes` tells it."""

    code, title, status = "too_large", "The body is too large", 413


class UnsupportedMedia(Problem):
    """The content type is not one this operation reads."""

    code, title, status = "unsupported_media_type", "Content type not supported", 415


class RateLimited(Problem):
    """Too many requests of this kind; `Retry-After` says when to come back."""

    code, title, status, retry = "rate_limited", "Too many requests", 429, Retry.AFTER


class Unavailable(Problem):
    """A part this needs is out for the moment. Never a statement about the credential."""

    code, title, status, retry = "unavailable", "Not available for the moment", 503, Retry.AFTER

    def __init__(self, detail: str = "", *, retry_after_s: float | None = 1.0, **extra: Any) -> None:
        super().__init__(detail, retry_after_s=retry_after_s, **extra)


class PartOut(Unavailable):
    """A part behind the one that was asked is out; what doesn't need it is answered."""

    code, title = "part_out", "Something this call needs is out for the moment"


class SessionUnconfirmed(Unavailable):
    """The session could not be confirmed for now and this operation needs that (R6.6)."""

    code, title = "session_unconfirmed", "The session can't be confirmed for the moment"


class DeadlineExceeded(Problem):
    """The time allowed for the request ran out."""

    code, title, status, retry = "deadline_exceeded", "The request took too long", 504, Retry.AFTER
