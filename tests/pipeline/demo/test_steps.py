"""What is finished stays, what was begun goes on, what changed is redone, what is not ours is left alone."""

import pytest

from pipeline.demo.steps import Steps, demo_folder
from pipeline.errors import StorageError, TerrazzoError


class Work:
    """Two steps, and whether each was told to go on whenever it was done."""

    def __init__(self, folder):
        self.folder, self.told = folder, []
        self.fails = False

    def first(self, goes_on):
        self.told.append(("first", goes_on))
        (self.folder / "first").write_text("")
        return {"answer": 42}

    def second(self, goes_on):
        self.told.append(("second", goes_on))
        if self.fails:
            raise TerrazzoError("no")

    def run(self, setting=1):
        self.told.clear()
        steps = Steps(self.folder, lambda _: None, 2)
        there = (self.folder / "first").exists()
        found = steps.run("first", "the first", {"setting": setting}, self.first, is_there=there)
        steps.run("second", "the second", {}, self.second, is_there=True)
        return found


@pytest.fixture
def work(tmp_path):
    with demo_folder(tmp_path / "demo", ("first",), again=False):
        yield Work(tmp_path / "demo")


def test_what_is_done_is_not_done_again(work):
    assert work.run() == {"answer": 42}
    assert work.told == [("first", False), ("second", False)]
    assert work.run() == {"answer": 42}
    assert work.told == []


def test_what_was_begun_goes_on_and_its_time_adds_up(work):
    work.fails = True
    with pytest.raises(TerrazzoError):
        work.run()
    before = Steps(work.folder, lambda _: None, 2).records["second"]["seconds"]
    work.fails = False
    work.run()
    assert work.told == [("second", True)]
    record = Steps(work.folder, lambda _: None, 2).records["second"]
    assert record["runs"] == 2
    assert record["seconds"] > before


def test_a_changed_setting_redoes_all_that_follows(work):
    work.run()
    work.run(setting=2)
    assert work.told == [("first", False), ("second", False)]


def test_what_somebody_deleted_is_made_again_and_all_that_follows(work):
    work.run()
    (work.folder / "first").unlink()
    work.run()
    assert work.told == [("first", False), ("second", False)]
    work.run()
    assert work.told == []


def test_again_deletes_what_the_demo_wrote_and_nothing_else(tmp_path):
    folder = tmp_path / "demo"
    with demo_folder(folder, ("mosaic",), again=False):
        (folder / "mosaic").mkdir()
        (folder / "notes.txt").write_text("mine")
        Work(folder).run()
    with demo_folder(folder, ("mosaic", "first"), again=True):
        assert sorted(path.name for path in folder.iterdir()) == ["demo.json", "demo.lock", "notes.txt"]
        assert Steps(folder, lambda _: None, 2).records == {}


@pytest.mark.parametrize("again", [False, True])
def test_a_folder_of_somebody_else_is_left_alone(tmp_path, again):
    (tmp_path / "scene.tif").write_text("mine")
    with (
        pytest.raises(StorageError, match="must be new, empty or that of an earlier demo"),
        demo_folder(tmp_path, ("scene.tif",), again=again),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["scene.tif"]


def test_two_demos_do_not_share_a_folder(work):
    with pytest.raises(StorageError, match="one demo at a time"), demo_folder(work.folder, (), again=True):
        pass
    assert (work.folder / "demo.json").exists()


def test_a_damaged_record_is_told_and_again_helps(tmp_path):
    with demo_folder(tmp_path, (), again=False):
        (tmp_path / "demo.json").write_text("{")
        with pytest.raises(StorageError, match="start over with --again"):
            Steps(tmp_path, lambda _: None, 2)
    with demo_folder(tmp_path, (), again=True):
        assert Steps(tmp_path, lambda _: None, 2).records == {}
