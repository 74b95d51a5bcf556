"""Files that are written whole or not at all."""

import pytest

from inti_models.files import replacing


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
