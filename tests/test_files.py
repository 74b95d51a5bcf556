"""Files that are written whole or not at all."""

import os
import signal
import tempfile
from pathlib import Path

import pytest

from inti_models.files import locked, replacing, write_text
from support.processes import forked


def test_file_takes_the_place_of_the_old_one_when_the_block_succeeds(tmp_path):
    path = tmp_path / "result.json"
    path.write_text("old")
    with replacing(path) as partial:
        partial.write_text("new")
        partial.with_name("left behind").touch()
        assert path.read_text() == "old" and partial.name == path.name
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_old_file_stays_where_the_block_fails(tmp_path):
    path = tmp_path / "result.json"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as partial:
        partial.write_text("new")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_symbolic_link_stays_and_leads_to_the_new_file(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "target", tmp_path / "link.txt"
    target.write_text("old")
    link.symlink_to(target)
    with replacing(link) as partial:
        assert partial.suffix == ".txt" and partial.parent.parent == target.parent  # on the file system of the file
        partial.write_text("new")
    assert link.is_symlink() and target.read_text() == "new"


def test_a_file_on_another_file_system_or_in_a_folder_whose_parent_cannot_be_written_is_replaced(tmp_path):
    other = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=other) as parent:
        folder = Path(parent, "folder")
        folder.mkdir()
        folder.chmod(0o777)
        (tmp_path / "link").symlink_to(folder)
        write_text(tmp_path / "link" / "file", "by a link to a folder")
        assert (folder / "file").read_text() == "by a link to a folder"
        (folder / "file").chmod(0o666)
        os.chmod(parent, 0o555)

        def write() -> None:
            if os.geteuid() == 0:  # whom no mode stops
                os.setuid(65534)
            write_text(folder / "file", "new")

        assert forked(write) == 0
        assert (folder / "file").read_text() == "new" and os.listdir(folder) == ["file"]
        os.chmod(parent, 0o755)


def test_file_has_the_permissions_of_any_other(tmp_path):
    (tmp_path / "plain").touch()
    with replacing(tmp_path / "replaced") as partial:
        partial.touch()
    assert (tmp_path / "replaced").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_missing_folder_and_folder_in_the_way_raise(tmp_path):
    with pytest.raises(FileNotFoundError, match="none/file cannot be written"), replacing(tmp_path / "none" / "file"):
        pass
    (tmp_path / "folder").mkdir()
    with (
        pytest.raises(IsADirectoryError, match="folder cannot be written"),
        replacing(tmp_path / "folder") as partial,
    ):
        partial.touch()


def test_a_folder_is_held_against_others_until_the_block_ends(tmp_path):
    folder = tmp_path / "new" / "folder"
    for _ in range(2):
        with locked(folder):
            with pytest.raises(BlockingIOError, match=f"Another process is writing to {folder}; wait"), locked(folder):
                pass
            with locked(folder, "file"):  # its files are held by themselves
                pass
    assert not list(folder.iterdir())


def test_a_kill_releases_a_folder_also_where_a_child_of_the_killed_process_lives_on(tmp_path):
    def hold_with_a_child():
        with locked(tmp_path):
            started, start = os.pipe()
            child = os.fork()  # which lets go of the lock before it returns there
            if child == 0:
                os.write(start, b".")
                signal.pause()
            (tmp_path / "child").write_text(str(child))
            os.read(started, 1)
            os.kill(os.getpid(), signal.SIGKILL)

    assert forked(hold_with_a_child) == -signal.SIGKILL
    child = int((tmp_path / "child").read_text())
    try:
        with locked(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
