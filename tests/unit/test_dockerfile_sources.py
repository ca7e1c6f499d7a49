"""Git references, kinds of sources, modes, owners and ports."""

import stat
import subprocess
from pathlib import Path

import pytest

from runtime.dockerfile import git_reference
from runtime.dockerfile.git_reference import GitReference
from runtime.dockerfile.permissions import Owner, parse_chmod, parse_chown
from runtime.dockerfile.ports import exposed_ports
from runtime.dockerfile.sources import Kind, check_checksum, classify, classify_context
from runtime.errors import InvalidParameter


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://h/a.git", GitReference("https://h/a.git")),
        ("https://h/a.git#main:docs/x", GitReference("https://h/a.git", "main", "docs/x")),
        ("https://h/a.git#:docs", GitReference("https://h/a.git", "", "docs")),
        ("http://u:p@h:1/a.git", GitReference("http://u:p@h:1/a.git")),
        ("git@h:a/b.git#v1", GitReference("git@h:a/b.git", "v1")),
        ("ssh://git@h/a", GitReference("ssh://git@h/a")),
        ("git://h/a", GitReference("git://h/a")),
        ("https://h/a.git?tag=v1&subdir=d", GitReference("https://h/a.git", "refs/tags/v1", "d")),
        ("https://h/a.git?branch=b", GitReference("https://h/a.git", "refs/heads/b")),
        ("https://h/a.git?ref=r&checksum=abc", GitReference("https://h/a.git", "r", "", "abc")),
        ("https://h/a.git?checksum=abc", GitReference("https://h/a.git", "abc", "", "abc")),
        (
            "https://h/a.git?keep-git-dir=1&submodules=false",
            GitReference("https://h/a.git", keep_git_dir=True, submodules=False),
        ),
        ("https://h/a.tar.gz", None),
        ("https://h/a", None),
        ("./git@h:a", None),
        ("github.com/a/b", None),
        ("file.git", None),
    ],
)
def test_git_references(text: str, expected: GitReference | None) -> None:
    assert git_reference.parse(text) == expected


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("x=1", 'unexpected query "x"'),
        ("ref=", 'query "ref" has no value'),
        ("ref=a&ref=b", 'query "ref" has multiple values'),
        ("tag=a&branch=b", 'ref conflicts: "refs/tags/a" vs "refs/heads/b"'),
        ("submodules=x", 'invalid submodules value: "x"'),
    ],
)
def test_wrong_queries(query: str, message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        git_reference.parse(f"https://h/a.git?{query}")
    assert str(caught.value) == message


def test_kinds_of_sources() -> None:
    assert classify("https://h/a.tar")[0] is Kind.HTTP
    assert classify("https://h/a.git")[0] is Kind.GIT
    assert classify("github.com/a/b")[0] is Kind.LOCAL
    assert classify_context("github.com/a/b")[1] == GitReference("https://github.com/a/b")


def test_checksums_fit_their_source() -> None:
    check_checksum("sha256:" + "a" * 64, "https://h/x")
    check_checksum("abcdef1", "https://h/x.git")
    for checksum, source in [
        ("sha256:abc", "https://h/x"),
        ("sha256:" + "a" * 64, "https://h/x.git"),
        ("sha256:" + "a" * 64, "x"),
    ]:
        with pytest.raises(InvalidParameter, match="checksum"):
            check_checksum(checksum, source)


@pytest.mark.parametrize("mode", [0o644, 0o755, 0o600, 0o4750, 0o000])
@pytest.mark.parametrize(
    "chmod",
    ["755", "0644", "u+x", "a=rX", "go-rwx", "u=rwX,go=rX", "+r", "g=u", "o+t", "ug+s", "u=rw,g-r+x", "a+X", "o="],
)
def test_chmod_does_what_the_command_does(mode: int, chmod: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    file.chmod(mode)
    subprocess.run(["/bin/sh", "-c", 'umask 0; chmod "$1" "$2"', "sh", chmod, file], check=True)
    assert oct(parse_chmod(chmod).apply(mode, is_directory=False)) == oct(stat.S_IMODE(file.stat().st_mode))


def test_chmod_of_directories() -> None:
    assert parse_chmod("a+X").apply(0o600, is_directory=True) == 0o711


@pytest.mark.parametrize("text", ["", "9", "u", "u+q", "rwx", "77777", "u+x,", "x=u"])
def test_wrong_modes(text: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid chmod parameter"):
        parse_chmod(text)


def test_owners() -> None:
    assert parse_chown("a") == Owner("a")
    assert parse_chown("1:2") == Owner("1", "2")
    for text in ("", ":g", "a:b:c", "a:"):
        with pytest.raises(InvalidParameter, match="invalid chown parameter"):
            parse_chown(text)


def test_exposed_ports() -> None:
    assert exposed_ports(["80", "80/tcp", "9000-9001/UDP", "1.2.3.4:1:2/sctp"]) == [
        "80/tcp",
        "9000/udp",
        "9001/udp",
        "2/sctp",
    ]
    for word in ("x", "80/xyz", "2-1", "70000", ""):
        with pytest.raises(InvalidParameter, match="invalid"):
            exposed_ports([word])
