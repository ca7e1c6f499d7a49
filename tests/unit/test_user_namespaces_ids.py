"""`--userns-remap`: which ids its argument stands for."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from runtime.container.ids import NOBODY, Ids
from runtime.engine import user_namespaces
from runtime.errors import InvalidParameter
from runtime.linux.user_namespaces import IdRange

ME = pwd.getpwuid(os.getuid()).pw_name


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(user_namespaces, "SUBUID", tmp_path / "subuid")
    monkeypatch.setattr(user_namespaces, "SUBGID", tmp_path / "subgid")
    return tmp_path


def test_ranges_follow_one_another(files: Path) -> None:
    (files / "subuid").write_text(f"# a comment\n{ME}:5000:10\nother:9000:10\nbad:line\n{ME}:7000:5\n")
    (files / "subgid").write_text("0:300000:65536\n")
    uids = (IdRange(0, 5000, 10), IdRange(10, 7000, 5))
    for text in (f"{ME}:root", f"{os.getuid()}:0"):
        assert user_namespaces.parse(text) == Ids(uids, (IdRange(0, 300000, 65536),))


def test_default_is_given_what_is_free(files: Path) -> None:
    (files / "subuid").write_text("somebody:200000:65536\n")
    ids = user_namespaces.parse("default")
    assert ids == Ids((IdRange(0, 265536, 65536),), (IdRange(0, 100000, 65536),))
    before = (files / "subuid").read_text()
    assert user_namespaces.parse("default") == ids
    assert (files / "subuid").read_text() == before == "somebody:200000:65536\ndockremap:265536:65536\n"


@pytest.mark.parametrize(
    "text, words",
    [
        ("no-such-user", "there is no user no-such-user"),
        (f"{ME}:no-such-group", "there is no group no-such-group"),
        (f"{ME}:root", f"no ids for {ME} in .*: add a line like {ME}:100000:65536"),
        (f"{ME}:", "write default, USER"),
        (":root", "write default, USER"),
    ],
)
def test_refused(text: str, words: str) -> None:
    with pytest.raises(InvalidParameter, match=words):
        user_namespaces.parse(text)


def test_there_and_back() -> None:
    ids = Ids((IdRange(0, 5000, 10), IdRange(10, 7000, 5)), (IdRange(0, 100, 1),))
    assert [ids.uid_on_host(uid) for uid in (0, 9, 10, 14)] == [5000, 5009, 7000, 7004]
    assert [ids.uid_inside(uid) for uid in (5000, 7004, 5010, 0)] == [0, 14, NOBODY, NOBODY]
    with pytest.raises(ValueError, match="id 15 is outside"):
        ids.uid_on_host(15)
