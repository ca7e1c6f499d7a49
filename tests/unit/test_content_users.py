"""`--user` against passwd and group files, with the answers and sentences of Docker."""

import pytest

from runtime.content.users import ResolvedUser, resolve_user
from runtime.errors import InvalidParameter

PASSWD = b"""\
# a comment
root:x:0:0:root:/root:/bin/sh
broken line
app:x:1000:1001:App:/home/app:/bin/sh
huge:x:4294967296:1:::
1234:x:77:77::/seventy:/bin/sh
"""
GROUP = b"""\
root:x:0:
app:x:1001:
audio:x:29:app,root
video:x:44:app
"""


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("", ResolvedUser(0, 0, (0, 29), "/root")),
        ("root", ResolvedUser(0, 0, (0, 29), "/root")),
        ("0", ResolvedUser(0, 0, (0, 29), "/root")),
        ("app", ResolvedUser(1000, 1001, (1001, 29, 44), "/home/app")),
        ("1000", ResolvedUser(1000, 1001, (1001, 29, 44), "/home/app")),
        ("app:audio", ResolvedUser(1000, 29, (29,), "/home/app")),
        ("app:5", ResolvedUser(1000, 5, (5,), "/home/app")),
        ("5000", ResolvedUser(5000, 0, (0,), "/")),
        ("5000:6000", ResolvedUser(5000, 6000, (6000,), "/")),
        (":video", ResolvedUser(0, 44, (44,), "/root")),
        ("1234", ResolvedUser(1234, 0, (0,), "/")),  # a number is a uid even when a user is called so
    ],
)
def test_every_form_of_a_user(spec: str, expected: ResolvedUser) -> None:
    assert resolve_user(spec, PASSWD, GROUP) == expected


def test_an_image_without_files_still_has_numbers() -> None:
    assert resolve_user("", None, None) == ResolvedUser(0, 0, (0,), "/")
    assert resolve_user("7:8", None, None, ["9"]) == ResolvedUser(7, 8, (8, 9), "/")


def test_added_groups_come_after_the_images_own_and_once() -> None:
    assert resolve_user("app", PASSWD, GROUP, ["video", "root", "99"]).additional_gids == (1001, 29, 44, 0, 99)


@pytest.mark.parametrize(
    ("spec", "groups", "sentence"),
    [
        ("nobody", [], "unable to find user nobody: no matching entries in passwd file"),
        ("app:staff", [], "unable to find group staff: no matching entries in group file"),
        ("app", ["staff"], "unable to find group staff: no matching entries in group file"),
        ("4294967296", [], "uids and gids must be in range 0-2147483647"),
        ("-1", [], "uids and gids must be in range 0-2147483647"),
        ("1:2147483648", [], "uids and gids must be in range 0-2147483647"),
        ("huge", [], "uids and gids must be in range 0-2147483647"),
    ],
)
def test_refusals_name_what_is_missing(spec: str, groups: list[str], sentence: str) -> None:
    with pytest.raises(InvalidParameter, match=sentence):
        resolve_user(spec, PASSWD, GROUP, groups)
