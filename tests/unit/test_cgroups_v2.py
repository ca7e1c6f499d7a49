"""The v2 manager on a directory tree that behaves like a cgroup2 filesystem where it matters."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime.cgroups import Hierarchies, files, open_cgroup, remove_subtree, v2
from runtime.cgroups.v2 import V2Cgroup
from runtime.errors import AlreadyExists, Conflict, InvalidParameter, NotSupported, SystemFault

CORE_FILES = {
    "cgroup.procs": "",
    "cgroup.subtree_control": "",
    "cgroup.events": "populated 0\nfrozen 0\n",
    "cgroup.freeze": "0\n",
    "cgroup.kill": "",
}
CONTROLLER_FILES = {
    "cpu": ("cpu.max", "cpu.weight"),
    "memory": ("memory.max", "memory.swap.max", "memory.low"),
    "pids": ("pids.max",),
}


class FakeCgroup2:
    """mkdir brings the control files of the controllers the parent has enabled; rmdir takes them along."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.made: list[str] = []
        self.is_busy: Callable[[str], bool] = lambda directory: False
        self._mkdir, self._rmdir = os.mkdir, os.rmdir
        self._fill(root, "cpu memory pids misc")
        monkeypatch.setattr(os, "mkdir", self.mkdir)
        monkeypatch.setattr(os, "rmdir", self.rmdir)

    def mkdir(self, path: str) -> None:
        self._mkdir(path)
        self.made.append(path)
        enabled = Path(path).parent / "cgroup.subtree_control"
        enabled.write_text(enabled.read_text().replace("+", ""))  # the kernel shows names without the sign
        self._fill(Path(path), enabled.read_text())

    def rmdir(self, path: str) -> None:
        directory = Path(path)
        if directory.exists():
            if self.is_busy(path) or any(entry.is_dir() for entry in directory.iterdir()):
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), path)
            for file in directory.iterdir():
                file.unlink()
        self._rmdir(path)

    def _fill(self, directory: Path, controllers: str) -> None:
        for name, text in CORE_FILES.items():
            (directory / name).write_text(text)
        (directory / "cgroup.controllers").write_text(controllers)
        for controller in controllers.split():
            for name in CONTROLLER_FILES.get(controller, ()):
                (directory / name).write_text("")

    def open(self, path: str) -> V2Cgroup:
        cgroup = open_cgroup(path, Hierarchies(str(self.root), {}))
        assert isinstance(cgroup, V2Cgroup)
        return cgroup

    def left(self) -> list[str]:
        return [str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_dir()]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCgroup2]:
    with monkeypatch.context() as patch:
        yield FakeCgroup2(tmp_path, patch)


@pytest.fixture(autouse=True)
def no_sleep(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    pauses: list[float] = []
    monkeypatch.setattr(files.time, "sleep", pauses.append)
    return pauses


def test_create_enables_controllers_down_the_path_and_sets_the_limits(fake: FakeCgroup2) -> None:
    cgroup = fake.open("/wherry-x/c1")
    cgroup.create({"memory": {"limit": 1024, "swap": 2048}, "pids": {"limit": 7}})
    assert (fake.root / "cgroup.subtree_control").read_text() == "cpu memory pids"
    assert (fake.root / "wherry-x/cgroup.subtree_control").read_text() == "cpu memory pids"
    directory = fake.root / "wherry-x/c1"
    assert (directory / "cgroup.subtree_control").read_text() == ""
    assert (directory / "memory.max").read_text() == "1024"
    assert (directory / "memory.swap.max").read_text() == "1024"
    assert (directory / "pids.max").read_text() == "7"
    assert (directory / "cpu.max").read_text() == ""
    assert cgroup.join_paths() == [f"{directory}/cgroup.procs"]


def test_the_second_create_makes_one_directory(fake: FakeCgroup2) -> None:
    fake.open("/wherry-x/c1").create({})
    fake.made.clear()
    fake.open("/wherry-x/c2").create({})
    assert fake.made == [f"{fake.root}/wherry-x/c2"]


def test_create_twice_is_refused_and_keeps_the_first(fake: FakeCgroup2) -> None:
    fake.open("/wherry-x/c1").create({})
    with pytest.raises(AlreadyExists, match="wherry-x/c1 exists already"):
        fake.open("/wherry-x/c1").create({})
    assert fake.left() == ["wherry-x", "wherry-x/c1"]


@pytest.mark.parametrize(
    ("resources", "kind"),
    [
        ({"pids": {"limit": 5}, "blockIO": {"weight": 100}}, NotSupported),  # io is not enabled here
        ({"pids": {"limit": 5}, "memory": {"limit": -9}}, InvalidParameter),
        ({"unified": {"memory.high": "1"}}, NotSupported),
    ],
)
def test_a_failed_create_leaves_nothing(fake: FakeCgroup2, resources: object, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        fake.open("/wherry-x/c1").create(resources)  # type: ignore[arg-type]
    assert fake.left() == []


def test_a_missing_controller_is_named(fake: FakeCgroup2) -> None:
    message = "cannot set the block I/O weight: this kernel offers no io.weight; .* the io cgroup controller"
    with pytest.raises(NotSupported, match=message):
        fake.open("/wherry-x/c1").create({"blockIO": {"weight": 100}})


def test_no_swap_is_kept_by_a_kernel_without_swap(fake: FakeCgroup2, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONTROLLER_FILES, "memory", ("memory.max",))
    fake.open("/wherry-x/c1").create({"memory": {"limit": 1024, "swap": 1024}})
    with pytest.raises(NotSupported, match="memory swap limit"):
        fake.open("/wherry-x/c2").create({"memory": {"limit": 1024, "swap": 2048}})


def test_update_changes_only_what_it_names(fake: FakeCgroup2) -> None:
    cgroup = fake.open("/wherry-x/c1")
    cgroup.create({"memory": {"limit": 1024}, "pids": {"limit": 7}})
    cgroup.update({"pids": {"limit": -1}})
    assert (fake.root / "wherry-x/c1/pids.max").read_text() == "max"
    assert (fake.root / "wherry-x/c1/memory.max").read_text() == "1024"


@pytest.mark.parametrize("delegated, born_in", [("", "c1"), ("memory pids", "init")])
def test_a_process_is_born_beside_init_once_controllers_are_delegated(
    fake: FakeCgroup2, monkeypatch: pytest.MonkeyPatch, delegated: str, born_in: str
) -> None:
    cgroup = fake.open("/wherry-x/c1")
    cgroup.create({})
    fake.open("/wherry-x/c1/init").create({})
    (fake.root / "wherry-x/c1/cgroup.subtree_control").write_text(delegated)
    texts = {"/proc/77/cgroup": "0::/wherry-x/c1/init"}
    monkeypatch.setattr(v2, "read_file", lambda path: texts.get(path) or files.read_file(path))
    fd = cgroup.open_fd_beside(77)
    assert fd is not None
    assert Path(os.readlink(f"/proc/self/fd/{fd}")).name == born_in
    os.close(fd)


def test_pids_include_nested_cgroups_but_not_foreign_namespaces(fake: FakeCgroup2) -> None:
    cgroup = fake.open("/wherry-x/c1")
    assert cgroup.pids() == []
    cgroup.create({})
    fake.open("/wherry-x/c1/inner").create({})
    (fake.root / "wherry-x/c1/cgroup.procs").write_text("30\n0\n")
    (fake.root / "wherry-x/c1/inner/cgroup.procs").write_text("20\n")
    assert cgroup.pids() == [20, 30]


def test_kill_uses_the_kernels_own(fake: FakeCgroup2) -> None:
    cgroup = fake.open("/wherry-x/c1")
    cgroup.kill()
    cgroup.create({})
    cgroup.kill()
    assert (fake.root / "wherry-x/c1/cgroup.kill").read_text() == "1"


def test_freeze_returns_when_the_kernel_says_frozen(fake: FakeCgroup2) -> None:
    cgroup = fake.open("/wherry-x/c1")
    cgroup.create({})
    (fake.root / "wherry-x/c1/cgroup.events").write_text("populated 1\nfrozen 1\n")
    cgroup.freeze()
    assert (fake.root / "wherry-x/c1/cgroup.freeze").read_text() == "1"


def test_delete_waits_out_a_dying_process(fake: FakeCgroup2, no_sleep: list[float]) -> None:
    cgroup = fake.open("/wherry-x/c1")
    cgroup.create({})
    answers = iter([True, True, False])
    fake.is_busy = lambda directory: next(answers)
    cgroup.delete()
    assert len(no_sleep) == 2
    assert fake.left() == ["wherry-x"]


def test_delete_gives_up_after_20_ms_and_names_who_is_there(fake: FakeCgroup2, no_sleep: list[float]) -> None:
    cgroup = fake.open("/wherry-x/c1")
    cgroup.create({})
    (fake.root / "wherry-x/c1/cgroup.procs").write_text("20\n30\n")
    fake.is_busy = lambda directory: True
    with pytest.raises(Conflict, match=r"wherry-x/c1: processes 20, 30 are still in it"):
        cgroup.delete()
    assert sum(no_sleep) == pytest.approx(0.020)


def test_delete_takes_nested_cgroups_along_and_can_be_repeated(fake: FakeCgroup2) -> None:
    fake.open("/wherry-x/c1/a/b").create({})
    fake.open("/wherry-x/c1").delete()
    fake.open("/wherry-x/c1").delete()
    assert fake.left() == ["wherry-x"]


def test_remove_subtree(fake: FakeCgroup2) -> None:
    fake.open("/wherry-x/c1").create({})
    fake.open("/wherry-x/c2").create({})
    remove_subtree("/wherry-x", Hierarchies(str(fake.root), {}))
    assert fake.left() == []


def test_processes_beside_limited_children_are_explained(fake: FakeCgroup2, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, value: str) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), path)

    monkeypatch.setattr("runtime.cgroups.v2.write_file", refuse)
    with pytest.raises(SystemFault, match="start the engine in a cgroup of its own"):
        fake.open("/wherry-x/c1").create({})
    assert fake.left() == []
