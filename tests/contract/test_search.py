"""Search finds what the caller may read at that moment, and nothing else: one suite over every wiring."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sealwire.contracts.conversations import Conversation
from sealwire.contracts.media import InfoQuery, Infos, MediaInfo
from sealwire.contracts.members import NewMember
from sealwire.contracts.messages import Draft, Edit
from sealwire.contracts.messaging_terms import ConversationNotFound
from sealwire.kit.caller import Caller
from sealwire.kit.problem import Invalid, Unavailable
from sealwire.testing.search_room import QUICK, SearchRoom
from sealwire.testing.wirings import WIRINGS


class Files:
    """The one call that search makes of media: names of files, for whom they are."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.out = False

    async def infos(self, caller: Caller, query: InfoQuery) -> Infos:
        if self.out:
            raise Unavailable
        return Infos(
            items=[
                MediaInfo(
                    media_id=media_id,
                    tenant_id=caller.tenant_id,
                    owner_id="u",
                    filename=self.names[media_id],
                    content_type="text/plain",
                    size_bytes=1,
                    sha256="",
                    status="clean",
                    created_at="",
                )
                for media_id in query.media_ids
                if media_id in self.names
            ]
        )


@pytest.fixture(params=WIRINGS)
async def room(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SearchRoom]:
    opened = SearchRoom(tmp_path, media=Files(), wiring=request.param)  # type: ignore[arg-type]  # the part it uses
    await opened.open()
    yield opened
    await opened.close()


async def pair(room: SearchRoom) -> tuple[Caller, Caller, Conversation]:
    """Return two people and their conversation."""
    ann, ben = await room.messages.enter("ann"), await room.messages.enter("ben")
    return ann, ben, await room.messages.group(ann, ben)


async def test_members_find_a_message_and_others_do_not(room: SearchRoom) -> None:
    ann, ben, where = await pair(room)
    eve = await room.messages.enter("eve")
    said = await room.messages.say(ann, where, "The kingfisher nests here")
    await room.caught_up()
    for member in (ann, ben):
        hits = await room.find(member, "kingfisher")
        (hit,) = hits.items
        assert (hit.message_id, hit.conversation_id, hit.seq, hit.sender_id, hit.created_at, hit.kind) == (
            said.message_id,
            where.conversation_id,
            1,
            ann.user_id,
            said.created_at,
            "message",
        )
        assert hit.snippet == "The <mark>kingfisher</mark> nests here"
        assert hits.next_cursor is None
    assert (await room.find(eve, "kingfisher")).items == []
    with pytest.raises(ConversationNotFound):
        await room.find(eve, "kingfisher", conversation_id=where.conversation_id)


async def test_a_search_is_in_the_audit_log_without_its_words(room: SearchRoom) -> None:
    anna, ben = await room.messages.enter("anna"), await room.messages.enter("ben")
    where = await room.messages.group(anna)
    place = where.conversation_id
    await room.messages.say(anna, where, "a confidential sentence")
    await room.caught_up()
    await room.find(anna, "confidential")
    await room.find(anna, "confidential", conversation_id=place)
    await room.find(ben, "confidential")
    with pytest.raises(ConversationNotFound):
        await room.find(ben, "confidential", conversation_id=place)
    told = [(r.actor.id, r.action, r.resource_type, r.resource_id, r.metadata["hits"]) for r in room.records]
    assert told == [
        (anna.user_id, "search.performed", "search", "", 1),
        (anna.user_id, "search.performed", "conversation", place, 1),
        (ben.user_id, "search.performed", "search", "", 0),
    ]
    assert {r.tenant_id for r in room.records} == {anna.tenant_id}
    assert b"confidential" not in msgspec.json.encode(room.records)


async def test_a_member_finds_only_while_a_member(room: SearchRoom) -> None:
    ann, ben, where = await pair(room)
    await room.messages.say(ann, where, "kingfisher")
    await room.caught_up()
    messaging = room.messages.messaging
    await messaging.remove_member(ann, where.conversation_id, ben.user_id)
    assert (await room.find(ben, "kingfisher")).items == []
    await messaging.add_member(ann, where.conversation_id, NewMember(user_id=ben.user_id))
    assert len((await room.find(ben, "kingfisher")).items) == 1


async def test_an_edited_or_deleted_text_is_never_shown_not_even_before_the_index_knows(room: SearchRoom) -> None:
    ann, ben, where = await pair(room)
    await room.messages.say(ann, where, "kingfisher one")
    await room.messages.say(ann, where, "kingfisher two")
    await room.caught_up()
    messaging = room.messages.messaging
    await messaging.edit(ann, where.conversation_id, 1, Edit(body="watermill"))
    assert await room.bodies(ben, "kingfisher") == ["kingfisher two"]
    await messaging.delete(ann, where.conversation_id, 2)
    assert await room.bodies(ben, "kingfisher") == []
    await room.caught_up()
    assert await room.bodies(ben, "kingfisher") == []
    assert await room.bodies(ben, "watermill") == ["watermill"]


async def test_a_removed_conversation_is_found_no_more(room: SearchRoom) -> None:
    ann, _, where = await pair(room)
    await room.messages.say(ann, where, "kingfisher")
    await room.caught_up()
    await room.messages.messaging.remove(ann, where.conversation_id)
    assert await room.bodies(ann, "kingfisher") == []
    await room.caught_up()
    assert await room.bodies(ann, "kingfisher") == []


async def test_filters(room: SearchRoom) -> None:
    ann, ben, where = await pair(room)
    other = await room.messages.group(ann)
    first = await room.messages.say(ann, where, "word from ann")
    await room.messages.say(ben, where, "word from ben")
    await room.messages.say(ann, other, "word alone")
    await room.caught_up()
    assert len(await room.bodies(ann, "word")) == 3
    assert set(await room.bodies(ann, "word", conversation_id=where.conversation_id)) == {
        "word from ann",
        "word from ben",
    }
    assert await room.bodies(ann, "word", sender_id=ben.user_id) == ["word from ben"]
    assert await room.bodies(ann, "word", kind="file") == []
    assert await room.bodies(ann, "word", to=first.created_at) == []
    assert len(await room.bodies(ann, "word", from_=first.created_at)) == 3
    assert await room.bodies(ann, 'word -"from ben" -alone') == ["word from ann"]
    assert await room.bodies(ann, '"from ben"') == ["word from ben"]
    assert await room.bodies(ann, '"ben from"') == []


async def test_files_are_found_by_name_while_they_may_be_read(room: SearchRoom) -> None:
    ann, ben, where = await pair(room)
    files = room.media
    assert isinstance(files, Files)
    files.names["f1"] = "quarterly kingfisher.pdf"
    draft = Draft(body="see attached", client_message_id="k", attachments=["f1"])
    await room.messages.messaging.send(ann, where.conversation_id, draft)
    await room.caught_up()
    (hit,) = (await room.find(ben, "kingfisher")).items
    assert (hit.kind, hit.snippet) == ("file", "quarterly <mark>kingfisher</mark>.pdf")
    assert len((await room.find(ben, "attached", kind="message")).items) == 1
    assert (await room.find(ben, "attached", kind="file")).items == []
    del files.names["f1"]
    assert (await room.find(ben, "kingfisher")).items == []


async def test_end_to_end_encrypted_text_is_not_indexed(room: SearchRoom) -> None:
    ann, ben, where = await pair(room)
    draft = Draft(body="kingfisher", client_message_id="k", ciphertexts=[{"device_id": "d", "ciphertext": "x"}])
    await room.messages.messaging.send(ann, where.conversation_id, draft)
    await room.caught_up()
    hits = await room.find(ben, "kingfisher", conversation_id=where.conversation_id)
    assert (hits.items, hits.indexed_up_to) == ([], {where.conversation_id: 1})


async def test_it_says_up_to_where_it_has_indexed(room: SearchRoom) -> None:
    ann, _, where = await pair(room)
    for i in range(3):
        await room.messages.say(ann, where, f"note {i}")
    await room.caught_up()
    hits = await room.find(ann, "nothing", conversation_id=where.conversation_id)
    assert (hits.items, hits.indexed_up_to) == ([], {where.conversation_id: 3})
    assert (await room.find(ann, "nothing")).indexed_up_to == {}


async def test_pages_hold_every_hit_once(room: SearchRoom) -> None:
    ann, ben, where = await pair(room)
    for i in range(23):
        await room.messages.say(ann, where, f"word {'filler ' * (i % 5)}{i}")
    await room.caught_up()
    for seq in (3, 9, 10, 11, 20):
        await room.messages.messaging.delete(ann, where.conversation_id, seq)
    seen: list[int] = []
    cursor = None
    for _ in range(20):
        page = await room.find(ben, "word", limit=4, cursor=cursor)
        assert len(page.items) <= 4
        seen += [hit.seq for hit in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert sorted(seen) == [seq for seq in range(1, 24) if seq not in (3, 9, 10, 11, 20)]


@pytest.mark.parametrize(
    ("filters", "path"),
    [
        ({"from_": "yesterday"}, "$.from"),
        ({"to": "2026-01-01T00:00:00"}, "$.to"),
        ({"to": "99999-01-01T00:00:00Z"}, "$.to"),
        ({"cursor": "x"}, "$.cursor"),
        ({"q": "a " * 33}, "$.q"),
    ],
)
async def test_a_broken_query_names_its_fault(room: SearchRoom, filters: dict[str, str], path: str) -> None:
    ann, _, where = await pair(room)
    await room.messages.say(ann, where, "word")
    await room.caught_up()
    with pytest.raises(Invalid) as caught:
        await room.find(ann, **{"q": "word", **filters})
    assert caught.value.extra["path"] == path


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.text(min_size=1, max_size=120).filter(
        lambda text: "\0" not in text and text.encode("utf-8", "ignore").decode() == text
    )
)
async def test_no_query_is_a_bug(room: SearchRoom, q: str) -> None:
    if not hasattr(room, "searcher"):
        ann, _, where = await pair(room)
        room.searcher = ann  # type: ignore[attr-defined]  # kept over the examples
        await room.messages.say(ann, where, "some <b>words</b> 今天天气 a.b@c 🎉 naïve")
        await room.caught_up()
    with contextlib.suppress(Invalid):
        hits = await room.find(room.searcher, q)  # type: ignore[attr-defined]  # set above
        assert not any("<b>" in hit.snippet for hit in hits.items)


async def test_what_is_html_in_a_text_is_text_in_its_snippet(room: SearchRoom) -> None:
    ann, _, where = await pair(room)
    await room.messages.say(ann, where, "<script>alert('kingfisher')</script> & <mark>fake</mark> \"q\" \u202egnp.exe")
    await room.caught_up()
    (hit,) = (await room.find(ann, "kingfisher")).items
    assert hit.snippet == (
        "&lt;script&gt;alert(&#x27;<mark>kingfisher</mark>&#x27;)&lt;/script&gt; &amp; &lt;mark&gt;fake&lt;/mark&gt; "
        "&quot;q&quot; gnp.exe"
    )


async def test_a_restart_goes_on_where_the_snapshot_ended(room: SearchRoom) -> None:
    ann, _, where = await pair(room)
    await room.messages.say(ann, where, "before kingfisher")
    await room.caught_up()
    await room.service.stop()
    await room.messages.say(ann, where, "meanwhile kingfisher")
    await room.messages.messaging.edit(ann, where.conversation_id, 1, Edit(body="changed kingfisher"))
    await room.open_search()
    assert room.index.replay_from() > 0
    await room.caught_up()
    assert set(await room.bodies(ann, "kingfisher")) == {"meanwhile kingfisher", "changed kingfisher"}
    assert await room.bodies(ann, "before") == []


async def test_without_a_snapshot_everything_is_read_from_the_catalogue(room: SearchRoom) -> None:
    ann, ben, where = await pair(room)
    for word in ("first", "second", "third"):
        await room.messages.say(ann, where, f"{word} kingfisher")
    messaging = room.messages.messaging
    await messaging.edit(ann, where.conversation_id, 2, Edit(body="changed kingfisher"))
    await messaging.delete(ann, where.conversation_id, 3)
    gone = await room.messages.group(ann)
    await room.messages.say(ann, gone, "removed kingfisher")
    await messaging.remove(ann, gone.conversation_id)
    await room.caught_up()
    await room.service.stop()
    shutil.rmtree(room.folder / "search")
    await room.open_search()
    assert room.index.replay_from() == 0
    await room.caught_up()
    found = await room.bodies(ben, "kingfisher")
    assert sorted(found) == ["changed kingfisher", "first kingfisher"]
    await room.messages.say(ann, where, "fourth kingfisher")
    await room.caught_up()
    assert len(await room.bodies(ben, "kingfisher")) == 3


async def test_a_stream_trimmed_past_the_snapshot_is_noticed(room: SearchRoom) -> None:
    ann, ben, where = await pair(room)
    await room.messages.say(ann, where, "first kingfisher")
    await room.caught_up()
    await room.service.stop()
    for word in ("second", "third"):
        await room.messages.say(ann, where, f"{word} kingfisher")
    stores = room.messages.stores
    await stores.positions.load("x")
    await stores.positions.save("x", await stores.events.newest())
    assert await stores.events.trim(room.clock.now_us() + 1, 1000)
    await room.open_search()
    assert room.index.replay_from() > 0
    await room.caught_up()
    assert len(await room.bodies(ben, "kingfisher")) == 3


async def test_indexing_anew_while_people_write_loses_and_doubles_nothing(room: SearchRoom) -> None:
    ann, ben, where = await pair(room)
    for i in range(20):
        await room.messages.say(ann, where, f"word {i}")
    for i in range(20, 40):
        if i % 7 == 0:
            await room.service.reindex()
        await room.messages.say(ann, where, f"word {i}")
        await room.messages.messaging.edit(ann, where.conversation_id, i - 10, Edit(body=f"word {i - 10} edited"))
    await room.caught_up()
    hits = (await room.find(ben, "word", limit=100)).items
    assert sorted(hit.seq for hit in hits) == list(range(1, 41))
    assert len(await room.bodies(ben, "edited", limit=100)) == 20


async def test_no_word_lies_readable_in_the_data_folder(room: SearchRoom) -> None:
    ann, _, where = await pair(room)
    await room.messages.say(ann, where, "the secret kingfisher")
    await room.caught_up()
    await room.index.snapshot()
    assert (room.folder / "search" / "snapshots" / "state").exists()
    for path in room.folder.rglob("*"):
        assert not path.is_file() or b"kingfisher" not in path.read_bytes().lower(), path


async def test_search_answers_while_media_is_out_and_says_when_it_cannot_index(tmp_path: Path) -> None:
    files = Files()
    config = msgspec.structs.replace(QUICK, media_patience_s=0.3)
    room = SearchRoom(tmp_path, media=files, config=config)  # type: ignore[arg-type]  # the part it uses
    await room.open()
    ann, _, where = await pair(room)
    files.out = True
    draft = Draft(body="word one", client_message_id="k", attachments=["f1"])
    await room.messages.messaging.send(ann, where.conversation_id, draft)
    await room.messages.say(ann, where, "word two")
    await room.caught_up()
    assert set(await room.bodies(ann, "word")) == {"word one", "word two"}
    for probe in room.service.checks().values():
        await probe()
    await room.close()
