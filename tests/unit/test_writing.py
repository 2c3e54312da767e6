"""Files and folders are replaced by whole ones or not at all, wherever the writing stops and whoever interrupts it."""

import os
import signal
import stat
import tempfile
import threading
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
from breaking import room_for

from pg_agents.files import writing
from pg_agents.files.writing import UNFINISHED, is_unfinished, replacing, replacing_folder, write
from pg_agents.interrupts import deferrable, deferred, held

resource = pytest.importorskip("resource")

OLD, NEW = "the old contents", "what is new, and somewhat longer"


@contextmanager
def as_somebody():
    """Without the rights of root, who may do all."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("before", [None, OLD])
def test_writing_that_stops_at_any_byte_leaves_what_there_was(tmp_path, before):
    path = tmp_path / "file"
    if before is not None:
        path.write_text(before)
    for size in range(len(NEW)):
        with room_for(size), pytest.raises(OSError, match="too large") as caught:
            write(path, NEW)
        assert caught.value.filename == str(path)
        assert names(tmp_path) == ([] if before is None else ["file"])
    with room_for(len(NEW)):
        write(path, NEW)
    assert path.read_text() == NEW
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("kept", [False, True])
def test_a_folder_that_is_filled_up_to_any_byte_leaves_what_there_was(tmp_path, exists, kept):
    path = tmp_path / "folder"

    def fill(contents):
        with replacing_folder(path, keeps_others=kept) as beside:
            (beside / "below").mkdir()
            for name in ("one", "below/two"):
                (beside / name).write_text(contents)

    if exists:
        fill(OLD)
        (path / "another").touch()
    for size in range(len(NEW)):
        with room_for(size), pytest.raises(OSError, match="too large") as caught:
            fill(NEW)
        assert Path(caught.value.filename).is_relative_to(path)
        assert names(tmp_path) == (["folder"] if exists else [])
        assert not exists or ((path / "below/two").read_text(), names(path)) == (OLD, ["another", "below", "one"])
    fill(NEW)
    assert [(path / name).read_text() for name in ("one", "below/two")] == [NEW, NEW]
    assert names(path) == ["another"] * (exists and kept) + ["below", "one"]
    assert names(tmp_path) == ["folder"]


@pytest.mark.parametrize("at_once", [True, False])
def test_a_folder_is_replaced_where_two_cannot_be_exchanged_at_once_too(tmp_path, monkeypatch, at_once):
    if not at_once:
        monkeypatch.setattr(writing, "_exchange_at_once", lambda *_: os.rename(tmp_path / "none", tmp_path / "no"))
    path = tmp_path / "folder"
    for contents in (OLD, NEW):
        with replacing_folder(path) as beside:
            (beside / "file").write_text(contents)
        assert (path / "file").read_text() == contents
        assert names(tmp_path) == ["folder"]


def test_other_things_in_a_folder_stay_if_they_are_to(tmp_path):
    path = tmp_path / "folder"
    (path / "both").mkdir(parents=True)
    for name in ("mine", "both/mine", "both/same", "was a file", "is a file"):
        (path / name).touch() if name != "is a file" else (path / name).mkdir()
    (path / "link").symlink_to("mine")
    with replacing_folder(path, keeps_others=True) as beside:
        (beside / "both").mkdir()
        (beside / "both/same").write_text(NEW)
        (beside / "was a file").mkdir()
        (beside / "is a file").write_text(NEW)
    assert names(path) == ["both", "is a file", "link", "mine", "was a file"]
    assert names(path / "both") == ["mine", "same"]
    assert (path / "both/same").read_text() == (path / "is a file").read_text() == NEW
    assert names(path / "was a file") == []
    assert (path / "link").is_symlink()


def test_the_current_folder_gets_files_one_by_one_and_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("mine", OLD)
    for contents in (OLD, NEW):
        with replacing_folder(".", keeps_others=True) as beside:
            (beside / "below").mkdir()
            (beside / "below/one").write_text(contents)
        assert Path("below/one").read_text() == contents
        assert names(Path()) == ["below", "mine"]
    with room_for(3), pytest.raises(OSError, match="too large"), replacing_folder(".", keeps_others=True) as beside:
        (beside / "mine").write_text(NEW)
    assert Path("mine").read_text() == OLD
    assert names(Path()) == ["below", "mine"]


def test_a_link_goes_on_pointing_to_the_same_place(tmp_path):
    for name, target in (("file", "there/file"), ("folder", "there/folder"), ("new", "there/new")):
        (tmp_path / name).symlink_to(target)
    (tmp_path / "there/folder").mkdir(parents=True)
    (tmp_path / "there/file").write_text(OLD)
    write(tmp_path / "file", NEW)
    write(tmp_path / "new", NEW)
    with replacing_folder(tmp_path / "folder") as beside:
        (beside / "one").touch()
    assert all((tmp_path / name).is_symlink() for name in ("file", "folder", "new"))
    assert (tmp_path / "there/file").read_text() == (tmp_path / "there/new").read_text() == NEW
    assert names(tmp_path / "there/folder") == ["one"]


def test_permissions_of_what_is_replaced_stay_and_those_of_a_new_file_follow_the_mask(tmp_path):
    def mode(name):
        return stat.S_IMODE((tmp_path / name).stat().st_mode)

    before = os.umask(0o027)
    try:
        write(tmp_path / "new", NEW)
        assert mode("new") == 0o640
        (tmp_path / "folder").mkdir(mode=0o700)
        for permissions in (0o600, 0o755):
            (tmp_path / "new").chmod(permissions)
            with replacing(tmp_path / "new") as beside:
                assert mode(beside.name) == 0o600
            assert mode("new") == permissions
        with replacing_folder(tmp_path / "folder"):
            pass
        assert mode("folder") == 0o700
    finally:
        os.umask(before)


def test_what_may_not_be_written_is_named_and_stays():
    with tempfile.TemporaryDirectory() as folder:
        for protected, (of_file, of_folder) in {"file": (0o444, 0o777), "folder": (0o666, 0o555)}.items():
            path = Path(folder, protected, "file")
            path.parent.mkdir()
            path.write_text(OLD)
            path.chmod(of_file)
            path.parent.chmod(of_folder)
            Path(folder).chmod(0o755)
            with as_somebody(), pytest.raises(PermissionError) as caught:
                write(path, NEW)
            assert caught.value.filename == str(path)
            assert path.read_text() == OLD
            path.parent.chmod(0o777)
            assert names(path.parent) == ["file"]


def test_errors_name_what_was_to_be_written(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path, error in {
        tmp_path / "none/file": FileNotFoundError,
        tmp_path / "file/file": NotADirectoryError,
        tmp_path / "folder": IsADirectoryError,
    }.items():
        with pytest.raises(error) as caught:
            write(path, NEW)
        assert caught.value.filename == str(path)
    with pytest.raises(NotADirectoryError) as caught, replacing_folder(tmp_path / "file"):
        pass
    assert caught.value.filename == str(tmp_path / "file")
    with pytest.raises(FileNotFoundError) as caught, replacing_folder(tmp_path / "folder") as beside:
        (beside / "no/file").touch()
    assert caught.value.filename == str(tmp_path / "folder/no/file")
    with pytest.raises(FileNotFoundError) as caught, replacing(tmp_path / "file"):
        (tmp_path / "something else").read_text()
    assert caught.value.filename == str(tmp_path / "something else")


def test_a_device_is_written_to_and_stays_one():
    write("/dev/null", NEW)
    assert Path("/dev/null").is_char_device()


def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path):
    for name in ("n" * 255, "ü" * 127):
        write(tmp_path / name, NEW)
        assert (tmp_path / name).read_text() == NEW


def test_what_is_unfinished_is_hidden_recognised_and_of_one_process(tmp_path):
    with replacing(tmp_path / "model.zip") as one, replacing(tmp_path / "model.zip") as other:
        assert one != other
        assert one.parent == tmp_path
        assert is_unfinished(one)
        assert one.name.endswith(UNFINISHED)
        assert not list(tmp_path.glob("*.zip"))
    assert not is_unfinished(tmp_path / "model.zip")


def test_threads_that_write_one_file_leave_it_whole(tmp_path):
    path, wrong = tmp_path / "file", []
    contents = [letter * 20_000 for letter in "abc"]
    write(path, contents[0])

    def work(text):
        for _ in range(20):
            write(path, text)
            if path.read_text() not in contents:
                wrong.append(text)

    threads = [threading.Thread(target=work, args=[text]) for text in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert names(tmp_path) == ["file"]


# Signals


def writing_with(path, signals, context=nullcontext):
    with context(), replacing(path) as beside:
        for number in signals:
            signal.raise_signal(number)
        beside.write_text(NEW)


@pytest.mark.parametrize("context", [nullcontext, deferrable, held])
@pytest.mark.parametrize("times", [1, 2, 3])
def test_ctrl_c_waits_for_the_file_however_often(tmp_path, times, context):
    write(tmp_path / "file", OLD)
    with pytest.raises(KeyboardInterrupt):
        writing_with(tmp_path / "file", [signal.SIGINT] * times, context)
    assert (tmp_path / "file").read_text() == NEW
    assert names(tmp_path) == ["file"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_all_handlers_of_signals_that_waited_run(tmp_path):
    received = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        with pytest.raises(KeyboardInterrupt):
            writing_with(tmp_path / "file", [signal.SIGTERM, signal.SIGINT, signal.SIGTERM])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == [signal.SIGTERM] * 2
    assert (tmp_path / "file").read_text() == NEW


def test_signals_that_are_ignored_stay_so(tmp_path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        writing_with(tmp_path / "file", [signal.SIGINT])
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_signals_wait_for_the_outermost_of_several(tmp_path):
    def fill():
        with replacing_folder(tmp_path / "folder") as beside:
            writing_with(beside / "one", [signal.SIGINT], deferred)
            write(beside / "two", NEW)

    with pytest.raises(KeyboardInterrupt):
        fill()
    assert names(tmp_path / "folder") == ["one", "two"]


def test_a_folder_that_takes_hours_can_be_interrupted(tmp_path):
    def fill():
        with replacing_folder(tmp_path / "folder", holds_interrupts=False) as beside:
            (beside / "one").touch()
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fill()
    assert names(tmp_path) == []


def test_another_thread_writes_without_a_look_at_signals(tmp_path):
    thread = threading.Thread(target=write, args=(tmp_path / "file", NEW))
    thread.start()
    thread.join()
    assert (tmp_path / "file").read_text() == NEW
