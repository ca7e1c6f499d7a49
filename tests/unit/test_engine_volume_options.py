"""Options of volumes and mounts, as Docker reads them."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.engine.options.mounts import merged, mounts, volumes_from
from runtime.engine.options.tmpfs import tmpfs_flag_options
from runtime.engine.volumes.local_options import MountCall, check, mount_call, without_password
from runtime.errors import InvalidParameter, NotSupported
from runtime.linux import mountinfo
from runtime.linux.mounts import MS_BIND, MS_NOATIME, MS_RDONLY, MS_REC, MS_SHARED


@pytest.mark.parametrize(
    "options, call",
    [
        ({"type": "tmpfs", "device": "tmpfs", "o": "size=1m,uid=7"}, MountCall("tmpfs", "tmpfs", 0, "size=1m,uid=7")),
        ({"type": "none", "device": "/d", "o": "bind"}, MountCall("/d", "none", MS_BIND, "")),
        ({"type": "none", "device": "/d", "o": "rbind,ro"}, MountCall("/d", "none", MS_BIND | MS_REC | MS_RDONLY, "")),
        ({"type": "ext4", "device": "/d", "o": "ro,noatime,rw"}, MountCall("/d", "ext4", MS_NOATIME, "")),
        ({"type": "x", "device": "/d", "o": "bind,rshared"}, MountCall("/d", "x", MS_BIND, "", MS_REC | MS_SHARED)),
        (
            {"type": "nfs", "device": ":/export", "o": "addr=files.example,rw,nolock"},
            MountCall(":/export", "nfs", 0, "addr=192.0.2.7,nolock"),
        ),
        ({"type": "nfs", "device": ":/e", "o": "addr=10.0.0.1"}, MountCall(":/e", "nfs", 0, "addr=10.0.0.1")),
        ({"type": "nfs", "device": ":/e", "o": "addr=fd00::1"}, MountCall(":/e", "nfs", 0, "addr=fd00::1")),
        ({"type": "cifs", "device": "//files.example/s"}, MountCall("//192.0.2.7/s", "cifs", 0, "")),
        ({"type": "ext4", "device": "/d", "o": "addr=name"}, MountCall("/d", "ext4", 0, "addr=name")),
    ],
)
def test_mount_calls(options: dict[str, str], call: MountCall) -> None:
    check(options)
    assert mount_call(options, resolve=lambda host: {"files.example": "192.0.2.7"}[host]) == call


@pytest.mark.parametrize(
    "options, words",
    [
        ({"bogus": "1"}, 'invalid option: "bogus"'),
        ({"type": "tmpfs"}, 'missing required option: "device"'),
        ({"o": "bind", "device": "/d"}, 'missing required option: "type"'),
        ({"size": "lots"}, "invalid size: 'lots'"),
        ({"size": "10g"}, "quota size requested but no quota support"),
        ({"type": "cifs", "device": "//host:445/share"}, "port not allowed in CIFS device URL"),
    ],
)
def test_refused_driver_options(options: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidParameter, match=words):
        check(options)


def test_no_device() -> None:
    check({"type": "tmpfs", "device": ""})
    with pytest.raises(InvalidParameter, match="missing device in volume options"):
        mount_call({"type": "tmpfs", "device": ""})


def test_a_password_is_not_shown() -> None:
    assert without_password("user=a,password=se=cret,uid=1") == "user=a,password=********,uid=1"


@pytest.mark.parametrize(
    "text, options",
    [
        ("", ("noexec", "nosuid", "nodev")),
        ("exec,size=64m", ("nosuid", "nodev", "exec", "size=64m")),
        ("size=1m,size=2m,mode=1777", ("noexec", "nosuid", "nodev", "size=2m", "mode=1777")),
        ("rw,ro,noatime", ("noexec", "nosuid", "nodev", "ro", "noatime")),
    ],
)
def test_tmpfs_options(text: str, options: tuple[str, ...]) -> None:
    assert tmpfs_flag_options(text) == options


@pytest.mark.parametrize("text", ["bogus", "size=", "size=abc", "mode=999", "uid=root", "size=1m;rm"])
def test_refused_tmpfs_options(text: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid tmpfs option"):
        tmpfs_flag_options(text)


def of_mount(**document: Any) -> None:
    mounts({}, {"Mounts": [{"Target": "/t", **document}]}, {})


@pytest.mark.parametrize(
    "document, words",
    [
        ({"Type": "bind", "Source": "rel"}, "invalid mount path: 'rel' mount path must be absolute"),
        ({"Type": "bind"}, "field Source must not be empty"),
        ({"Type": "bind", "Source": "/s", "VolumeOptions": {"NoCopy": True}}, "field VolumeOptions must not be"),
        ({"Type": "bind", "Source": "/s", "BindOptions": {"Propagation": "x"}}, "invalid propagation mode: x"),
        ({"Type": "volume", "BindOptions": {"Propagation": "shared"}}, "field BindOptions must not be specified"),
        ({"Type": "volume", "Source": "vol", "VolumeOptions": {"Subpath": "/a"}}, "subpath must be a relative path"),
        ({"Type": "volume", "Source": "vol", "VolumeOptions": {"Subpath": "a/../.."}}, "subpath must be a relative"),
        ({"Type": "tmpfs", "TmpfsOptions": {"Options": [["size", "1"]]}}, "invalid option: size"),
        ({"Type": "tmpfs", "Target": ""}, "field Target must not be empty"),
        ({"Type": "tmpfs", "Target": "/a/.."}, "destination can't be '/'"),
        ({"Type": "bogus"}, 'invalid mount config for type "bogus": mount type unknown'),
    ],
)
def test_refused_mounts(document: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidParameter, match=words) as caught:
        of_mount(**document)
    assert str(caught.value).startswith(f'invalid mount config for type "{document["Type"]}": ')


def test_mounts_for_others_are_refused_by_name() -> None:
    for kind, words in (("npipe", "Windows"), ("cluster", "swarm")):
        with pytest.raises(NotSupported, match=words):
            of_mount(Type=kind)


def test_order_and_precedence() -> None:
    host = {"Binds": ["/a:/x/y/z", "/b:/x"], "Tmpfs": {"/x/y": ""}}
    own = mounts({"Volumes": {"/x": {}, "/v": {}, "/given": {}}}, host, {"Volumes": {"/v": {}, "/image": {}}})
    given = mounts({}, {"Binds": ["/c:/given", "/d:/x"]}, {})
    found = [(mount.kind, mount.target, mount.source) for mount in merged(own, given)]
    assert found == [
        ("bind", "/given", "/c"),
        ("volume", "/image", ""),
        ("volume", "/v", ""),
        ("bind", "/x", "/b"),
        ("tmpfs", "/x/y", ""),
        ("bind", "/x/y/z", "/a"),
    ]


def test_volumes_from() -> None:
    assert volumes_from({"VolumesFrom": ["a", "b:ro", "c:rw,z"]}) == [("a", False), ("b", True), ("c", False)]
    for text in ("a:rslave", "a:nocopy", "a:bogus"):
        with pytest.raises(InvalidParameter, match="invalid mode: "):
            volumes_from({"VolumesFrom": [text]})


MOUNTINFO = rb"""22 27 0:21 / / rw - ext4 /dev/a rw
23 22 0:22 / /srv rw shared:5 - ext4 /dev/b rw
24 23 0:23 / /srv/with\040space rw shared:6 master:2 - tmpfs tmpfs rw
25 23 0:24 / /srv/with\040space rw - tmpfs over rw
"""


def test_mountinfo() -> None:
    entries = mountinfo.parse(MOUNTINFO)
    found = mountinfo.at(entries, "/srv/with space")
    assert found is not None and found.source == "over"
    assert mountinfo.at(entries, "/srv/with") is None
    assert mountinfo.containing(entries, "/srv/with").optional == ("shared:5",)
    assert mountinfo.containing(entries, "/srvx").mount_point == "/"
    assert mountinfo.below(entries, "/srv") == ["/srv/with space", "/srv/with space", "/srv"]
