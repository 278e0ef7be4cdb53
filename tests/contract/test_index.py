"""Every search index finds what it promises to find, and nothing else: one suite over all families."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sealwire.ports.index import BadCursor, Entry, Put, Remove, SearchIndex, Sought
from sealwire.testing.backends import FAMILIES, open_index

ROOM = "c1"


@pytest.fixture(params=FAMILIES)
async def index(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SearchIndex]:
    async with open_index(request.param, tmp_path) as opened:
        yield opened


def put(
    position: int, text: str, *, tenant: str = "t1", room: str = ROOM, fresh: bool = True, **changes: object
) -> Put:
    message_id = str(changes.pop("message_id", f"m{position}"))
    fields: dict[str, object] = {
        "conversation_id": room,
        "seq": position,
        "sender_id": "u1",
        "kind": "message",
        "at_us": 1_000_000 + position,
        "version": "",
        **changes,
    }
    entry = Entry(message_id=message_id, text=text, **fields)  # type: ignore[arg-type]  # named in the call
    return Put(tenant_id=tenant, position=position, message_id=message_id, entries=(entry,), fresh=fresh)


async def fill(index: SearchIndex, *changes: Put | Remove) -> None:
    await index.apply(changes, upto=max(change.position for change in changes))
    await index.flush()


async def find(
    index: SearchIndex, *words: str, tenant: str = "t1", rooms: tuple[str, ...] = (ROOM,), **more: object
) -> list[str]:
    sought = Sought(words=words, conversation_ids=frozenset(rooms), **more)  # type: ignore[arg-type]  # the struct checks them
    return [hit.message_id for hit in (await index.search(tenant, sought, limit=100)).hits]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("Hello World", "hello"),
        ("Hello World", "WORLD"),
        ("Hello World", "wor"),
        ("Hello World", "wrold"),
        ("Hello World", "helo"),
        ("Hello World", "hallo"),
        ("Crème brûlée im Café", "creme"),
        ("Creme brulee", "brûlée"),
        ("cafe\u0301", "café"),
        ("straße nach Łódź", "strasse"),
        ("straße nach Łódź", "lodz"),
        ("Ёлка и чай", "елка"),
        ("άνθρωπος", "ανθρωποσ"),
        ("ＦＵＬＬ width", "full"),
        ("今天天气很好。我们去公园", "天气"),
        ("今天天气很好。我们去公园", "气"),
        ("今天天气很好。我们去公园", "天气很好"),
        ("日本語のテキスト検索", "キスト"),
        ("안녕하세요 세계", "하세"),
        ("สวัสดีชาวโลก", "ชาว"),
        ("क्षत्रिय नमस्ते", "नमस्ते"),
        ("party 🎉 time", "🎉"),
        ("mail a.b@example.com today", "a.b@example.com"),
        ("see https://example.com/x-1", "example.com/x"),
        ("don't panic", "don't"),
        ("invoice 2026-114", "2026-114"),
    ],
)
async def test_a_word_is_found(index: SearchIndex, text: str, word: str) -> None:
    await fill(index, put(1, text))
    assert await find(index, word) == ["m1"]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("Hello World", "hexxo"),
        ("Hello World", "rld"),
        ("cat", "car"),
        ("invoice 2026", "2027"),
        ("今天天气很好", "天好"),
        ("今天天气很好", "晚"),
        ("w" * 100, "w" * 100),
        ("!!!", "!!!"),
        ("a.c b", "a.b"),
    ],
)
async def test_another_word_is_not(index: SearchIndex, text: str, word: str) -> None:
    await fill(index, put(1, text))
    assert await find(index, word) == []


async def test_all_words_phrases_and_none_of_the_excluded(index: SearchIndex) -> None:
    await fill(index, put(1, "red fox jumps"), put(2, "fox red"), put(3, "red dog"))
    assert set(await find(index, "red", "fox")) == {"m1", "m2"}
    assert await find(index, phrases=("red fox",)) == ["m1"]
    assert await find(index, "red", without=("fox",)) == ["m3"]
    assert await find(index, without=("fox",)) == []


async def test_filters_hold_together(index: SearchIndex) -> None:
    await fill(
        index,
        put(1, "word", room="c1", sender_id="u1"),
        put(2, "word", room="c2", sender_id="u2"),
        put(3, "word", room="c3", sender_id="u1", kind="file"),
    )
    everywhere = ("c1", "c2", "c3")
    assert await find(index, "word", rooms=everywhere) == ["m3", "m2", "m1"]
    assert await find(index, "word", rooms=()) == []
    assert await find(index, "word", rooms=("c2", "c9")) == ["m2"]
    assert await find(index, "word", rooms=everywhere, sender_id="u1") == ["m3", "m1"]
    assert await find(index, "word", rooms=everywhere, sender_id="u1", kind="message") == ["m1"]
    assert await find(index, "word", rooms=everywhere, from_us=1_000_002) == ["m3", "m2"]
    assert await find(index, "word", rooms=everywhere, to_us=1_000_002) == ["m1"]
    assert await find(index, "word", rooms=everywhere, from_us=1_000_002, to_us=1_000_003) == ["m2"]


async def test_tenants_are_apart(index: SearchIndex) -> None:
    await fill(index, put(1, "secret", tenant="t1"), put(2, "secret", tenant="t2"))
    assert await find(index, "secret", tenant="t1") == ["m1"]
    assert await find(index, "secret", tenant="t3") == []
    before = (await index.search("t1", Sought(words=("secret",), conversation_ids=frozenset([ROOM])), limit=1)).hits
    await fill(index, *(put(10 + i, "secret", tenant="t2") for i in range(50)))
    after = (await index.search("t1", Sought(words=("secret",), conversation_ids=frozenset([ROOM])), limit=1)).hits
    assert before[0].score == after[0].score


async def test_an_edit_replaces_and_a_delete_removes(index: SearchIndex) -> None:
    await fill(index, put(1, "first draft"), put(2, "other"))
    await fill(index, put(3, "second version", message_id="m1", fresh=False))
    assert await find(index, "draft") == []
    assert await find(index, "version") == ["m1"]
    await fill(index, Remove(tenant_id="t1", position=4, field="message_id", value="m1"))
    assert await find(index, "version") == []
    await fill(index, Remove(tenant_id="t1", position=5, field="conversation_id", value=ROOM))
    assert await find(index, "other") == []


async def test_changes_within_one_batch_keep_their_order(index: SearchIndex) -> None:
    await fill(
        index,
        put(1, "apple"),
        put(2, "pear", message_id="m1", fresh=False),
        put(3, "cherry"),
        Remove(tenant_id="t1", position=4, field="message_id", value="m3"),
    )
    assert (await find(index, "apple"), await find(index, "pear"), await find(index, "cherry")) == ([], ["m1"], [])


async def test_what_matches_better_comes_first_and_of_equals_the_newest(index: SearchIndex) -> None:
    await fill(index, put(1, "warden"), put(2, "word"), put(3, "wordy"), put(4, "ward"), put(5, "word"))
    assert await find(index, "word") == ["m5", "m2", "m3", "m4"]


async def test_pages_continue_while_the_index_changes(index: SearchIndex) -> None:
    await fill(index, *(put(i, "word " + "filler " * (i % 7)) for i in range(1, 31)))
    sought = Sought(words=("word",), conversation_ids=frozenset([ROOM]))
    whole = [hit.message_id for hit in (await index.search("t1", sought, limit=100)).hits]
    page = await index.search("t1", sought, limit=7)
    seen = page.hits
    position = 31
    while page.more:
        await fill(index, put(position, "word"), put(position + 1, "word word"))
        position += 2
        page = await index.search("t1", sought, limit=7, cursor=page.hits[-1].after)
        seen += page.hits
    assert [hit.message_id for hit in seen] == whole
    assert not (await index.search("t1", sought, limit=7, cursor=seen[-1].after)).hits


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_page_continues_after_a_restart(family: str, tmp_path: Path) -> None:
    from sealwire.testing.snapshot_keys import LocalSnapshotKeys

    keys, sought = LocalSnapshotKeys(), Sought(words=("word",), conversation_ids=frozenset([ROOM]))
    async with open_index(family, tmp_path, keys=keys) as index:
        await fill(index, *(put(i, "word " + "filler " * (i % 7)) for i in range(1, 31)))
        whole = [hit.message_id for hit in (await index.search("t1", sought, limit=100)).hits]
        first = await index.search("t1", sought, limit=10)
    async with open_index(family, tmp_path, keys=keys) as index:
        rest = await index.search("t1", sought, limit=100, cursor=first.hits[-1].after)
    assert [hit.message_id for hit in [*first.hits, *rest.hits]] == whole


@pytest.mark.parametrize(
    "cursor", ["", "x", "0" * 16, "0" * 16 + ".1.1.1\n", "../../etc", "é" * 20, "0" * 16 + ".٣.1.1", "9" * 600]
)
async def test_a_foreign_cursor_is_refused(index: SearchIndex, cursor: str) -> None:
    await fill(index, put(1, "word"))
    with pytest.raises(BadCursor):
        await index.search("t1", Sought(words=("word",), conversation_ids=frozenset([ROOM])), limit=1, cursor=cursor)


async def test_a_cursor_of_another_tenant_shows_nothing_of_it(index: SearchIndex) -> None:
    await fill(index, *(put(i, "word", tenant="t1") for i in range(1, 6)), put(6, "word", tenant="t2"))
    sought = Sought(words=("word",), conversation_ids=frozenset([ROOM]))
    page = await index.search("t1", sought, limit=2)
    other = await index.search("t2", sought, limit=2, cursor=page.hits[-1].after)
    assert {hit.message_id for hit in other.hits} <= {"m6"}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(max_size=40), max_size=4), st.lists(st.text(max_size=40), max_size=2), st.text(max_size=20))
async def test_no_query_fails(index: SearchIndex, words: list[str], phrases: list[str], other: str) -> None:
    if not index.indexed_up_to("t1", [ROOM])[ROOM]:
        await fill(index, put(1, "some words 今天天气 a.b@c 🎉"))
    sought = Sought(
        words=tuple(words),
        phrases=tuple(phrases),
        without=(other,),
        conversation_ids=frozenset([ROOM, other]),
        sender_id=None,
    )
    await index.search("t1", sought, limit=5)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_categories=("C", "M")), min_size=1, max_size=80))
async def test_every_text_is_taken_and_found_by_its_own_words(index: SearchIndex, text: str) -> None:
    from sealwire.kit.fold import WORD, fold

    position = index.indexed_up_to("t1", [ROOM])[ROOM] + 1
    await fill(index, put(position, text, sender_id=f"u{position}"), put(position + 1, ""))
    for word in [w for w in WORD.findall(fold(text)) if len(w.encode()) <= 40][:3]:
        assert await find(index, word, sender_id=f"u{position}") == [f"m{position}"], ascii((text, word))


async def test_it_says_up_to_where_it_finds(index: SearchIndex) -> None:
    await fill(index, put(1, "a", room="c1", seq=1), put(2, "", room="c1", seq=2), put(3, "b", room="c2", seq=7))
    assert index.indexed_up_to("t1", ["c1", "c2", "c3"]) == {"c1": 2, "c2": 7, "c3": 0}
    assert index.indexed_up_to("t9", ["c1"]) == {"c1": 0}


async def test_a_repeated_batch_does_nothing(index: SearchIndex) -> None:
    batch = [put(1, "word"), put(2, "word"), Remove(tenant_id="t1", position=3, field="message_id", value="m2")]
    for _ in range(3):
        await fill(index, *batch)
    assert await find(index, "word") == ["m1"]


async def test_purge_removes_a_person_and_nothing_else(index: SearchIndex) -> None:
    await fill(index, put(1, "hers", sender_id="u1"), put(2, "hers too", sender_id="u1"), put(3, "his", sender_id="u2"))
    assert await index.purge("t1", "sender_id", "u1") == 2
    assert await index.purge("t1", "sender_id", "u1") == 0
    assert await find(index, "hers") == []
    assert await find(index, "his") == ["m3"]
    await fill(index, put(4, "again"))
    assert await find(index, "again") == ["m4"]


async def test_clear_forgets_everything(index: SearchIndex) -> None:
    await fill(index, put(1, "word"), put(2, "word", tenant="t2"))
    await index.clear()
    assert (await find(index, "word"), index.replay_from()) == ([], 0)
    await fill(index, put(1, "word"))
    assert await find(index, "word") == ["m1"]


async def test_it_takes_many_at_once(index: SearchIndex) -> None:
    for start in range(1, 3001, 500):
        await index.apply([put(i, f"word number{i}") for i in range(start, start + 500)], upto=start + 499)
    assert await index.flush() == 3000
    assert await find(index, "number2777") == ["m2777"]
    await index.check()
