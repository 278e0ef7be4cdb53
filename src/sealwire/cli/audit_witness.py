"""Has a witness cosign a log's checkpoint: the log's end of C2SP tlog-witness, `add-checkpoint`."""

from __future__ import annotations

import urllib.error
import urllib.request
from base64 import b64encode
from http.client import HTTPException

from sealwire.cli.audit_live import OPENER, TIMEOUT_S, LiveLog, Refused
from sealwire.cli.terminal import why
from sealwire.contracts.witness import CosignedCheckpoint
from sealwire.services.compliance.notes import NoteInvalid, parse_checkpoint, parse_note

SIZE_TYPE = "text/x.tlog.size"
_ANSWER_BYTES = 64 * 1024


class _SeenAlready(Exception):
    """The witness saw the log at another size than was thought."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


def ask_witness(log: LiveLog, url: str) -> CosignedCheckpoint:
    """Show the newest checkpoint to a witness, with the proof that it continues the last it saw; hand in what it signs.

    Raises: Refused, also when the witness has seen more of the log than there is now.
    """
    head = log.checkpoint()
    try:
        older = parse_checkpoint(parse_note(head.cosigned).text).size if head.cosigned else 0
    except NoteInvalid as error:
        raise Refused(f"{log} gives a cosigned checkpoint that can't be read: {error}") from None
    try:
        lines = _add_checkpoint(url, older, log.consistency(older, head.tree_size), head.checkpoint)
    except _SeenAlready as seen:
        if seen.size > head.tree_size:
            raise Refused(
                f"{url} saw {seen.size} records of this log, which has {head.tree_size}: it was cut, or is another one"
            ) from None
        try:
            lines = _add_checkpoint(url, seen.size, log.consistency(seen.size, head.tree_size), head.checkpoint)
        except _SeenAlready as again:
            raise Refused(f"{url} sees this log at size {again.size} now; ask again") from None
    return log.cosign(head.checkpoint + lines)


def _add_checkpoint(url: str, older: int, proof: list[bytes], note: str) -> str:
    """Return the signature lines of the answer. Raises: _SeenAlready, Refused."""
    hashes = "".join(b64encode(node).decode() + "\n" for node in proof)
    request = urllib.request.Request(  # noqa: S310 - the address is the operator's own, checked below
        f"{url.rstrip('/')}/add-checkpoint", data=f"old {older}\n{hashes}\n{note}".encode(), method="POST"
    )
    if request.type not in {"http", "https"}:
        raise Refused(f"{url}: http or https")
    try:
        with OPENER.open(request, timeout=TIMEOUT_S) as answer:
            return str(answer.read(_ANSWER_BYTES).decode())
    except urllib.error.HTTPError as error:
        said = error.read(_ANSWER_BYTES)
        if (
            error.code == 409
            and error.headers.get_content_type() == SIZE_TYPE
            and said.strip().isdigit()
            and len(said) < 20
        ):
            raise _SeenAlready(int(said)) from None
        reason = {
            403: "it doesn't know the key that signed this checkpoint",
            404: "it doesn't know this log",
            409: "it saw another log of this name and size: the log is forked",
            422: "the checkpoint does not continue what it saw: the log is forked",
        }.get(error.code, error.reason)
        raise Refused(f"{url} answers {error.code}: {reason}", error.code) from None
    except UnicodeDecodeError:
        raise Refused(f"{url} answers something that is no text") from None
    except (OSError, HTTPException) as error:
        raise Refused(f"{url} can't be reached: {why(error)}") from None
