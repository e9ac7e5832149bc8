"""Outputs are whole or not there, whatever goes wrong while they are written."""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from unembed.errors import OutputError
from unembed.files.atomic import atomic_file, atomic_folder, output_errors, remove_leftovers


def names(folder: Path) -> list[str]:
    """Everything in `folder`, hidden files included."""
    return sorted(path.name for path in folder.iterdir())


def fill(folder: Path, text: str) -> None:
    (folder / "a").write_text(text)
    (folder / "deep").mkdir()
    (folder / "deep" / "b").write_text(text)


def write_and_raise(path: Path, error: BaseException) -> None:
    path.write_text("half")
    raise error


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    with atomic_file(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert names(path.parent) == ["file.txt"]
    with atomic_file(path) as temporary:
        temporary.write_text("newer")
    assert path.read_text() == "newer"


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt()])
def test_a_file_that_fails_leaves_the_old_one(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(type(error)), atomic_file(path) as temporary:
        write_and_raise(temporary, error)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_a_file_that_cannot_be_renamed_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with (
        pytest.raises(OutputError, match=r"file\.txt: cannot be written \(No space left on device\)$"),
        atomic_file(path) as temporary,
    ):
        temporary.write_text("new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_a_folder_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder"
    for text in ("first", "second"):
        with atomic_folder(path) as temporary:
            fill(temporary, text)
        assert (path / "a").read_text() == (path / "deep" / "b").read_text() == text
        assert names(path.parent) == ["folder"]


def test_a_folder_replaces_everything_that_the_old_one_held(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with atomic_folder(path) as temporary:
        fill(temporary, "old")
    with atomic_folder(path) as temporary:
        (temporary / "only").write_text("new")
    assert names(path) == ["only"]


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt()])
def test_a_folder_that_fails_leaves_the_old_one(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "folder"
    with atomic_folder(path) as temporary:
        fill(temporary, "old")
    with pytest.raises(type(error)), atomic_folder(path) as temporary:
        write_and_raise(temporary / "a", error)
    assert (path / "deep" / "b").read_text() == "old"
    assert names(tmp_path) == ["folder"]


@pytest.mark.parametrize("failing", [1, 2])
def test_a_folder_that_cannot_be_renamed_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    path = tmp_path / "folder"
    with atomic_folder(path) as temporary:
        fill(temporary, "old")
    rename, calls = Path.rename, []

    def refuse(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == failing:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with (
        pytest.raises(OutputError, match=r"folder: cannot be written \(No space left on device\)$"),
        atomic_folder(path) as temporary,
    ):
        fill(temporary, "new")
    assert (path / "a").read_text() == "old"
    assert names(tmp_path) == ["folder"]


def test_a_kill_while_writing_leaves_the_old_one(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from unembed.files.atomic import atomic_file, atomic_folder\n"
        "with atomic_folder(sys.argv[1] + '/folder') as folder, atomic_file(sys.argv[1] + '/file') as file:\n"
        "    file.write_text('new')\n"
        "    (folder / 'a').write_text('new')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_text("old")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -9
    assert (tmp_path / "file").read_text() == "old"
    assert (tmp_path / "folder" / "a").read_text() == "old"


@pytest.mark.parametrize("writer", [atomic_file, atomic_folder])
def test_a_place_below_a_file_is_one_clear_line(
    tmp_path: Path, writer: Callable[[Path], AbstractContextManager[Path]]
) -> None:
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(OutputError, match=r"file/out: cannot be written \([^\n]+\)$"),
        writer(tmp_path / "file" / "out"),
    ):
        pass
    assert (tmp_path / "file").read_text() == "in the way"


def test_errors_name_the_path_and_the_reason(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"^out: cannot be written \(No such file or directory\)$"),
        output_errors(Path("out")),
    ):
        (tmp_path / "missing" / "file").write_text("")
    with pytest.raises(OutputError, match=r"^out: cannot be written \(no reason\)$"), output_errors(Path("out")):
        raise OSError("no reason")


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for name in (f".run.{ended.pid}.tmp", f".run.{os.getpid()}.tmp", f".run.{ended.pid}.old", "run.tmp", ".tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "inside").write_text("")
    (tmp_path / f".file.txt.{ended.pid}.tmp").write_text("half")
    remove_leftovers(tmp_path)
    remove_leftovers(tmp_path / "nothing")
    assert names(tmp_path) == sorted([f".run.{os.getpid()}.tmp", f".run.{ended.pid}.old", "run.tmp", ".tmp"])
