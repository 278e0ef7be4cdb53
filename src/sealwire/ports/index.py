"""The search index: what search asks of a full-text engine, in search's words.

Engines that keep it: tantivy (embedded) and Elasticsearch or OpenSearch (distributed). May differ: the lag until a
change is found (bounded by `flush`) and the values of scores. May not differ: what matches, and the promises below.

- Tenants are apart: nothing of one tenant, word statistics included, is seen in another's results or scores.
  *Elasticsearch:* one index per tenant (small tenants may share one by routing, with filtered aliases).
- Matching: case, accents and widths fold (`kit.fold`); a word matches exactly, as a prefix from two characters on, and
  with one typo (a letter more, less, other or swapped) from four letters on; scripts without spaces match anywhere in a
  sentence; words joined by punctuation match as a phrase. *Elasticsearch:* two fields filled with `kit.fold`'s words
  and pairs, `whitespace` analyser; `term`, `prefix`, `fuzzy` (fuzziness 1) in a `dis_max`, `match_phrase` over pairs.
- Order: best first, of equals the newest first, fixed over the pages of one search. *Elasticsearch:* `sort` by
  `_score`, `at_us`; `search_after` over a point in time.
- Positions: `apply` carries positions of one feed in rising order. A change at or below a tenant's position is passed
  over, so a repeated batch does nothing. `replay_from()` is the position after which the feed has to be read again
  after a restart; no change at or before it is missing from the index. 0 says that there is nothing to go on from:
  `clear`, `load` all there is, and apply the feed from where it stood before the loading.
  *Elasticsearch:* `_id` is the message id, `version_type=external` with the position; the position of the consumer is
  a document written after the bulk call is acknowledged (`refresh=false`).
- At rest no readable word (R9.6). *Elasticsearch:* an encrypted volume, named in the guide as its operator's duty.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, Protocol

import msgspec

from sealwire.kit.envelopes import SealingKey

Field = Literal["message_id", "conversation_id", "sender_id"]
MAX_DEPTH = 1000
"""How many hits of one search can be paged through."""


class IndexFault(Exception):
    """The engine failed or is not ready; the text says of what and what to do."""


class BadCursor(ValueError):
    """The cursor is none of ours."""


class KeyDestroyed(Exception):
    """The key that sealed a snapshot is gone for good: the snapshot counts as erased."""


class KeyOut(Exception):
    """The tenant's key can't be had until what is stored of it is put back; others' can."""


class Entry(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Something to be found of a message. `version` changes with every edit. An empty `text` is counted, not found."""

    message_id: str
    conversation_id: str
    seq: int
    sender_id: str
    kind: str
    at_us: int
    version: str
    text: str


class Put(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Store what is to be found of a message: its text, its files. Takes the place of what was stored of it before.

    `fresh` says that nothing was, as for a message just sent: it spares the engine looking for it.
    """

    tenant_id: str
    position: int
    message_id: str
    entries: tuple[Entry, ...]
    fresh: bool = False


class Remove(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Remove every entry whose field has this value, or one of `more`."""

    tenant_id: str
    position: int
    field: Field
    value: str
    more: tuple[str, ...] = ()


class Sought(msgspec.Struct, frozen=True, kw_only=True):
    """What is looked for: all `words` and `phrases`, none of `without`, in one of the conversations.

    Times are microseconds since the epoch, `from_us` inclusive, `to_us` exclusive.
    """

    words: tuple[str, ...] = ()
    phrases: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    conversation_ids: frozenset[str]
    sender_id: str | None = None
    kind: str | None = None
    from_us: int | None = None
    to_us: int | None = None


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """An entry that matched. `after` is the cursor of the hit that follows it."""

    message_id: str
    conversation_id: str
    seq: int
    sender_id: str
    kind: str
    at_us: int
    version: str
    score: float
    after: str


class FoundPage(msgspec.Struct, frozen=True, kw_only=True):
    """Hits in order. `more` when another page follows the last one's `after`."""

    hits: list[Found]
    more: bool


class SnapshotKeys(Protocol):
    """Where snapshots get their data keys from. Both may raise what makes them unavailable for now."""

    async def sealing_key(self, tenant_id: str) -> SealingKey:
        """Return the key for new files of the tenant; one key serves many files. Raises: KeyDestroyed, KeyOut."""

    async def key_by_id(self, tenant_id: str, key_id: bytes) -> SealingKey:
        """Return the key a file names. Raises: KeyDestroyed, KeyOut; EnvelopeRefused when there is none."""


class SearchIndex(Protocol):
    """A full-text index over the messages of all tenants. The module's text states the promises."""

    async def start(self) -> None:
        """Be ready to search and to apply. A damaged part is dropped, not served, and shows in `replay_from`."""

    async def stop(self) -> None:
        """Make durable what was applied and leave no readable word behind. Safe to call twice."""

    def replay_from(self) -> int:
        """Return the position after which the feed has to be applied (again). 0: load everything anew."""

    def mark(self) -> str:
        """Return what `apply` was told last of the feed's identity, as durable as `replay_from`; empty: nothing.

        It is of a position at or behind everything the index holds. *Elasticsearch:* a field beside the position.
        """

    async def apply(self, changes: Sequence[Put | Remove], *, upto: int, mark: str = "") -> None:
        """Take changes in position order; with them the feed was read up to `upto`, which `mark` tells apart.

        Returns before they can be found (see `flush`), and waits while too many are on their way.
        """

    async def load(self, puts: Sequence[Put]) -> None:
        """Store what is there already, outside of the feed's order: positions are not looked at. Waits as `apply`."""

    async def flush(self) -> int:
        """Wait until all that was applied can be found; return the position up to which that is true."""

    async def search(self, tenant_id: str, sought: Sought, *, limit: int, cursor: str | None = None) -> FoundPage:
        """Return at most `limit` hits after the cursor. Raises: BadCursor, IndexFault."""

    def indexed_up_to(self, tenant_id: str, conversation_ids: Iterable[str]) -> Mapping[str, int]:
        """Return per conversation the highest `seq` that can be found (0 where none can)."""

    async def purge(self, tenant_id: str, field: Field, value: str) -> int:
        """Remove entries now and physically: on return neither memory nor disk holds their words, sealed or not.

        Returns how many entries went. For erasure; the feed's own removals go through `apply`.
        """

    async def count(self, tenant_id: str, field: Field, value: str) -> int:
        """Return how many entries have this value, all that was applied before included. Raises: IndexFault."""

    async def clear(self) -> None:
        """Drop every tenant's entries, in memory and on disk; `replay_from` is 0 then. For reindexing."""

    async def check(self) -> None:
        """Raises: IndexFault naming what does not work (a tenant past its bound, a failing disk)."""
