"""A file for the user is whole or as it was: whatever ends the writing of it, and whoever else writes it."""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sealwire.cli.draft import NoFile, Taken, draft_of, drafted

KILLED = """
import os, signal, sys
from pathlib import Path
from sealwire.cli.draft import drafted
with drafted(Path(sys.argv[1])) as out:
    out.write(b"half")
    out.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def written(file: Path, content: bytes) -> None:
    with drafted(file) as out:
        out.write(content)


def test_a_new_file_is_there_when_it_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "new"
    with drafted(file) as out:
        out.write(b"whole")
        assert not file.exists()
        out.seek(0)
        assert out.read() == b"whole", "it can be read back before it counts"
    assert file.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [file]
    before = os.umask(0)
    os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~before


@pytest.mark.parametrize("ended_by", [ValueError, KeyboardInterrupt, SystemExit])
def test_what_was_there_stays_whatever_ends_the_writing(tmp_path: Path, ended_by: type[BaseException]) -> None:
    file = tmp_path / "kept"
    file.write_bytes(b"of last year")

    def end() -> None:
        with drafted(file) as out:
            out.write(b"half")
            raise ended_by

    with pytest.raises(ended_by):
        end()
    assert file.read_bytes() == b"of last year"
    assert list(tmp_path.iterdir()) == [file]


def test_a_full_disk_leaves_what_was_there_and_no_half_beside(tmp_path: Path) -> None:
    file = tmp_path / "kept"
    file.write_bytes(b"of last year")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            written(file, bytes(1 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file.read_bytes() == b"of last year"
    assert list(tmp_path.iterdir()) == [file]


def test_what_a_kill_left_is_taken_away_by_the_next(tmp_path: Path) -> None:
    file = tmp_path / "kept"
    file.write_bytes(b"of last year")
    done = subprocess.run([sys.executable, "-c", KILLED, str(file)], timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert file.read_bytes() == b"of last year"
    assert draft_of(file).read_bytes() == b"half"
    written(file, b"whole")
    assert file.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [file]


def test_two_at_once_do_not_write_into_each_other(tmp_path: Path) -> None:
    file = tmp_path / "file"
    with drafted(file) as out:
        out.write(b"first")
        with pytest.raises(Taken, match="file: another command"):
            written(file, b"second")
    assert file.read_bytes() == b"first"
    written(file, b"second")
    assert file.read_bytes() == b"second"


def test_mode_and_links_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    file, link = tmp_path / "folder" / "file", tmp_path / "link"
    file.write_bytes(b"before")
    file.chmod(0o640)
    link.symlink_to(file)
    written(link, b"after")
    assert link.is_symlink()
    assert file.read_bytes() == b"after"
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_what_others_put_in_the_drafts_place_is_not_written_to(tmp_path: Path) -> None:
    file, theirs = tmp_path / "file", tmp_path / "theirs"
    theirs.write_bytes(b"theirs")
    draft_of(file).symlink_to(theirs)
    written(file, b"ours")
    assert (file.read_bytes(), theirs.read_bytes()) == (b"ours", b"theirs")
    assert not file.is_symlink()
    draft_of(file).mkdir()
    with pytest.raises(IsADirectoryError) as refused:
        written(file, b"again")
    assert refused.value.filename == str(file), "the name that people gave"
    assert file.read_bytes() == b"ours"


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (Path(os.devnull), tmp_path / "pipe", tmp_path / "none" / "file"):
        with pytest.raises(NoFile, match=place.name):
            written(place, b"content")
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pipe"]
