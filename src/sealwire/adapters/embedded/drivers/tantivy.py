"""One tantivy index of one tenant: schema, analysers, queries; a folder in memory or plain process memory.

Not safe for use by several threads at once except `search`; its owner calls the rest one at a time.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import tantivy

from sealwire.kit.fold import WORD, analyse, pairs
from sealwire.ports.index import Entry, Field, IndexFault, Sought

WRITER_HEAP_BYTES = 15_000_000
"""The smallest heap tantivy takes; arenas grow into it as needed."""
LONGEST_WORD_BYTES = 64
PREFIX_FROM, TYPO_FROM = 2, 4
MOST_WORDS = 32
MOST_TERMS = 128
"""Up to so many conversations are looked up one by one beside a hit; more are read into a set before."""
US_PER_MINUTE = 60_000_000
MINUTES_TO_2020 = 26_297_280

_json = msgspec.json.Encoder().encode
Address = Any
Ranked = tuple[float, int, Address]
"""Score and `at_us`, both negated so that the best sorts first, and where the document is."""


def _words() -> tantivy.TextAnalyzer:
    builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
    return builder.filter(tantivy.Filter.remove_long(LONGEST_WORD_BYTES)).filter(tantivy.Filter.lowercase()).build()


def _schema() -> tantivy.Schema:
    builder = tantivy.SchemaBuilder()
    for name in ("message_id", "conversation_id", "sender_id", "kind", "version"):
        builder.add_text_field(name, tokenizer_name="raw", index_option="basic", stored=True)
    builder.add_integer_field("at_us", fast=True, stored=True)
    builder.add_integer_field("seq", stored=True)
    builder.add_integer_field("freshness", fast=True)
    builder.add_text_field("words", tokenizer_name="words", stored=True)
    builder.add_text_field("pairs", tokenizer_name="pairs")
    builder.add_bytes_field("text", stored=True)
    return builder.build()


class _Document(msgspec.Struct, omit_defaults=True):
    """An entry as the engine takes it. `words` is the text itself where that is ASCII; else it is folded and the text
    is kept in `text` (base64).
    """

    message_id: str
    conversation_id: str
    sender_id: str
    kind: str
    at_us: int
    seq: int
    freshness: int
    words: str
    version: str = ""
    pairs: str = ""
    text: bytes = b""


def _document(entry: Entry) -> str:
    words, joined, text = entry.text, "", b""
    if not words.isascii():
        words, runs = analyse(entry.text)
        joined = " ".join(pair for run in runs for pair in pairs(run))
        text = entry.text.encode("utf-8", "replace")
    document = _Document(
        entry.message_id,
        entry.conversation_id,
        entry.sender_id,
        entry.kind,
        entry.at_us,
        entry.seq,
        max(0, entry.at_us // US_PER_MINUTE - MINUTES_TO_2020),
        words,
        entry.version,
        joined,
        text,
    )
    return _json(document).decode()


class TantivyIndex:
    """An index in a folder, or in the process's own memory when there is none."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._schema = _schema()
        self._analyser = _words()
        self._index = tantivy.Index(self._schema, path=None if folder is None else str(folder))
        self._index.register_tokenizer("words", self._analyser)
        self._index.register_tokenizer("pairs", tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.whitespace()).build())
        self._index.config_reader("manual")
        self._index.reload()
        self._writer: tantivy.IndexWriter | None = None
        self._lock = threading.Lock()
        self._searcher = self._index.searcher()

    # ---- writing
    def add(self, entry: Entry) -> None:
        """Hand an entry to the indexing thread (about 6 µs here). Raises: IndexFault."""
        self._write("add_json", _document(entry))

    def remove(self, field: Field, value: str) -> None:
        """Remove what was added before and has this value. Raises: IndexFault."""
        self._write("delete_documents_by_term", field, value)

    def commit(self) -> None:
        """Make what was written searchable. Takes milliseconds, releases the GIL. Raises: IndexFault."""
        self._write("commit")
        self._index.reload()
        searcher = self._index.searcher()
        with self._lock:
            self._searcher = searcher

    def _write(self, verb: str, *arguments: object) -> None:
        try:
            if self._writer is None:
                self._writer = self._index.writer(WRITER_HEAP_BYTES, 1)
            getattr(self._writer, verb)(*arguments)
        except BaseException as error:  # a Rust panic arrives as a BaseException
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            raise IndexFault(f"The search engine failed to write ({type(error).__name__}).") from error

    def rest(self) -> None:
        """Give back the writer's threads and memory; the next write takes them again. Uncommitted writes are lost."""
        writer, self._writer = self._writer, None
        if writer is not None:
            try:
                writer.wait_merging_threads()
            except Exception as error:
                raise IndexFault(f"The search engine failed to finish a merge ({type(error).__name__}).") from error

    def drop_writer(self) -> None:
        """Let go of the writer and what it holds uncommitted."""
        self._writer = None

    @property
    def writing(self) -> bool:
        """Whether a writer is open."""
        return self._writer is not None

    # ---- what is there
    @property
    def searcher(self) -> tantivy.Searcher:
        """The view after the newest commit; it stays as it is."""
        with self._lock:
            return self._searcher

    def addresses(self) -> list[Address]:
        """Return where every entry of the newest commit is, for `searcher`."""
        searcher = self.searcher
        if not searcher.num_docs:
            return []
        return [
            address for _, address in searcher.search(tantivy.Query.all_query(), searcher.num_docs, count=False).hits
        ]

    def count(self, field: Field, value: str) -> int:
        """Return how many entries have this value."""
        found: Any = self.searcher.search(tantivy.Query.term_query(self._schema, field, value, "basic"), 1)
        return int(found.count)

    def segments(self) -> tuple[bytes, tuple[str, ...]]:
        """Return the folder's metadata and the files of the segments it names.

        Raises: IndexFault in process memory, where there are no files.
        """
        if self.folder is None:
            raise IndexFault("An index in process memory has no files.")
        meta = (self.folder / "meta.json").read_bytes()
        names = os.listdir(self.folder)
        files: list[str] = []
        for segment in json.loads(meta)["segments"]:
            stem, deletes = segment["segment_id"].replace("-", ""), segment["deletes"]
            files += [name for name in names if name.startswith(stem) and not name.endswith(".del")]
            if deletes:
                files.append(f"{stem}.{deletes['opstamp']}.del")
        return meta, tuple(files)

    # ---- searching
    def search(self, searcher: tantivy.Searcher, sought: Sought, limit: int) -> list[Ranked]:
        """Return the best hits, of equals the newest first. Raises: IndexFault."""
        try:
            # times log2(2 + minutes since 2020): of equals the newest, and about a percent a year for the rest
            hits = searcher.search(self._query(sought), limit, count=False, weight_by_field="freshness").hits
            times = searcher.fast_field_values("at_us", [address for _, address in hits]) if hits else []
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            raise IndexFault(f"The search engine failed to search ({type(error).__name__}).") from error
        order = sorted(
            (-hit[0], -int(at_us or 0), place) for place, (hit, at_us) in enumerate(zip(hits, times, strict=True))
        )
        return [(score, at_us, hits[place][1]) for score, at_us, place in order]

    def _query(self, sought: Sought) -> tantivy.Query:
        must = [self._clause(text, exact=False) for text in sought.words[:MOST_WORDS]]
        must += [self._clause(text, exact=True) for text in sought.phrases[:MOST_WORDS]]
        wanted = [query for query in must if query is not None]
        if not wanted or not sought.conversation_ids:
            return tantivy.Query.empty_query()
        parts = [(tantivy.Occur.Must, query) for query in wanted]
        unwanted = [self._clause(text, exact=True) for text in sought.without[:MOST_WORDS]]
        parts += [(tantivy.Occur.MustNot, query) for query in unwanted if query is not None]
        parts += [(tantivy.Occur.Must, tantivy.Query.const_score_query(query, 0.0)) for query in self._filters(sought)]
        return tantivy.Query.boolean_query(parts)

    def _filters(self, sought: Sought) -> Iterator[tantivy.Query]:
        schema = self._schema
        if len(sought.conversation_ids) <= MOST_TERMS:
            one = (tantivy.Query.term_query(schema, "conversation_id", i, "basic") for i in sought.conversation_ids)
            yield tantivy.Query.boolean_query([(tantivy.Occur.Should, query) for query in one])
        else:
            yield tantivy.Query.term_set_query(schema, "conversation_id", list(sought.conversation_ids))
        if sought.sender_id is not None:
            yield tantivy.Query.term_query(schema, "sender_id", sought.sender_id, "basic")
        if sought.kind is not None:
            yield tantivy.Query.term_query(schema, "kind", sought.kind, "basic")
        if sought.from_us is not None or sought.to_us is not None:
            yield tantivy.Query.range_query(
                schema,
                "at_us",
                tantivy.FieldType.Integer,
                sought.from_us,
                sought.to_us,
                include_upper=sought.to_us is None,
            )

    def _clause(self, text: str, *, exact: bool) -> tantivy.Query | None:
        """Return the query for one word or phrase; None when nothing in it can be looked for (punctuation only)."""
        folded, runs = analyse(text)
        parts = [self._run(run) for run in runs]
        if terms := self._analyser.analyze(folded):
            parts.append(self._terms(terms, exact))
        elif WORD.search(folded):  # only words too long to be indexed: they match nothing
            return tantivy.Query.empty_query()
        if not parts:
            return None
        return parts[0] if len(parts) == 1 else tantivy.Query.boolean_query([(tantivy.Occur.Must, q) for q in parts])

    def _terms(self, terms: list[str], exact: bool) -> tantivy.Query:
        query, schema, last = tantivy.Query, self._schema, terms[-1]
        if len(terms) > 1:
            phrase = query.phrase_query(schema, "words", list(terms))
            if exact:
                return phrase
            begun = query.const_score_query(query.phrase_prefix_query(schema, "words", list(terms)), 0.5)
            return query.disjunction_max_query([phrase, begun])
        term = query.term_query(schema, "words", last)
        if exact or len(last) < PREFIX_FROM:
            return term
        ways = [
            query.boost_query(term, 2.0),
            _constant(query.fuzzy_term_query(schema, "words", last, 0, True, True), 0.5),
        ]
        if len(last) >= TYPO_FROM and last.isalpha():
            ways.append(_constant(query.fuzzy_term_query(schema, "words", last, 1), 0.25))
        return query.disjunction_max_query(ways)

    def _run(self, run: str) -> tantivy.Query:
        query = tantivy.Query
        if len(run) == 1:
            return _constant(query.fuzzy_term_query(self._schema, "pairs", run, 0, True, True), 1.0)
        inside = pairs(run)[:-1]
        if len(inside) == 1:
            return query.term_query(self._schema, "pairs", inside[0])
        return query.phrase_query(self._schema, "pairs", list(inside))


def _constant(query: tantivy.Query, score: float) -> tantivy.Query:
    return tantivy.Query.const_score_query(query, score)


def entry_at(searcher: tantivy.Searcher, address: Address) -> Entry:
    """Return the entry stored at an address of this view."""
    stored: Any = searcher.doc(address).get_first
    text = stored("text")
    return Entry(
        message_id=stored("message_id"),
        conversation_id=stored("conversation_id"),
        seq=stored("seq"),
        sender_id=stored("sender_id"),
        kind=stored("kind"),
        at_us=stored("at_us"),
        version=stored("version") or "",
        text=stored("words") if text is None else bytes(text).decode(),
    )


def lay_out(folder: Path, meta: bytes, files: Iterable[str]) -> None:
    """Complete a folder that holds segment files, so that tantivy opens it and owns (and later removes) the files."""
    (folder / ".managed.json").write_text(json.dumps([*files, "meta.json"]))
    (folder / "meta.json").write_bytes(meta)
