"""What a search means: the query language, read leniently, and what of a message can be found."""

from __future__ import annotations

import re
from functools import lru_cache

import msgspec

from sealwire.contracts.messages import Message
from sealwire.kit.clock import parse_rfc3339
from sealwire.kit.problem import Invalid
from sealwire.ports.index import Entry

MOST_PARTS = 32
MOST_TEXT_CHARS = 64 * 1024
MESSAGE, FILE = "message", "file"
_PART = re.compile(r'(-?)(?:"([^"]*)"?|(\S+))')


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A query, read: all of `words` and `phrases`, none of `without`."""

    words: tuple[str, ...]
    phrases: tuple[str, ...]
    without: tuple[str, ...]


def read_query(text: str) -> Wanted:
    """Read a query: words, `"a phrase"`, `-without`, `-"without a phrase"`. Everything else is taken as words.

    Raises: Invalid for more than MOST_PARTS parts.
    """
    words, phrases, without = [], [], []
    for minus, phrase, word in _PART.findall(text):
        if minus and (phrase or word):
            without.append(phrase or word)
        elif phrase:
            phrases.append(phrase)
        elif word:
            words.append(word)
    if len(words) + len(phrases) + len(without) > MOST_PARTS:
        raise Invalid(f"A query has at most {MOST_PARTS} words and phrases.", path="$.q")
    return Wanted(words=tuple(words), phrases=tuple(phrases), without=tuple(without))


def read_time(text: str | None, path: str) -> int | None:
    """Read a filter's time. Raises: Invalid naming `path`."""
    if text is None:
        return None
    try:
        return parse_rfc3339(text)
    except (ValueError, OverflowError):
        raise Invalid("A time is written as 2026-01-31T12:00:00Z.", path=path) from None


def version_of(message: Message) -> str:
    """Return what changes when a message is edited."""
    return message.edited_at or ""


def entries_of(message: Message, file_names: list[str]) -> tuple[Entry, ...]:
    """Return what can be found of a message: its text, its files by name; nothing of an end-to-end encrypted one."""
    if message.deleted or message.body is None:
        return ()
    readable = message.ciphertexts is None and message.content_type.startswith("text/")
    entries = [_entry(message, MESSAGE, message.body[:MOST_TEXT_CHARS] if readable else "")]
    if file_names:
        entries.append(_entry(message, FILE, "\n".join(file_names)))
    return tuple(entries)


@lru_cache(maxsize=1024)
def _second_us(text: str) -> int:
    """Read a time up to its seconds; messaging writes six digits behind them. Messages of one second share this."""
    return parse_rfc3339(f"{text}Z")


def _entry(message: Message, kind: str, text: str) -> Entry:
    return Entry(
        message_id=message.message_id,
        conversation_id=message.conversation_id,
        seq=message.seq,
        sender_id=message.sender_id,
        kind=kind,
        at_us=_second_us(message.created_at[:19]) + int(message.created_at[20:26]),
        version=version_of(message),
        text=text,
    )
