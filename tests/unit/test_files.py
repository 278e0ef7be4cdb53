"""Files that are whole or not there."""

from __future__ import annotations

import os
import stat

import pytest

from sealwire.kit.files import count_in_files, write_all, write_whole


def test_a_file_is_replaced_as_a_whole_with_its_mode(tmp_path):
    path = tmp_path / "key"
    write_whole(path, b"first" * 1000)
    write_whole(path, b"second", mode=0o600)
    assert path.read_bytes() == b"second"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_draft_left_by_a_crash_is_in_nobodys_way(tmp_path):
    (tmp_path / ".key.new").write_bytes(b"half of a longer dra")
    write_whole(tmp_path / "key", b"whole")
    assert (tmp_path / "key").read_bytes() == b"whole"


def test_what_was_there_stays_when_the_folder_takes_nothing(tmp_path):
    with pytest.raises(OSError):
        write_whole(tmp_path / "none" / "key", b"x")


def test_more_than_a_pipe_holds_is_written_to_the_end():
    reader, writer = os.pipe()
    os.set_blocking(writer, True)
    content = b"x" * 300_000
    if os.fork() == 0:  # the other end of the pipe
        os.close(reader)
        write_all(writer, content)
        os._exit(0)
    os.close(writer)
    got = b""
    while chunk := os.read(reader, 65_536):
        got += chunk
    os.close(reader)
    os.wait()
    assert got == content


@pytest.mark.parametrize("chunk_bytes", [1, 2, 3, 5, 7, 1 << 20])
def test_texts_are_counted_wherever_chunks_end(tmp_path, chunk_bytes):
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "one").write_bytes(b"..needle.....thread...needle")
    (folder / "two").write_bytes(b"needl\0e thread")
    places = [tmp_path / "one", folder, tmp_path / "none"]
    assert count_in_files(places, [b"needle", b"thread", b""], chunk_bytes=chunk_bytes) == 4
    assert count_in_files(places, [b"haystack"], chunk_bytes=chunk_bytes) == 0
    assert count_in_files(places, []) == 0
