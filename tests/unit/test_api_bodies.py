"""Request bodies: Go's rules for names, types and null."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.api.wire import bodies
from runtime.errors import InvalidParameter


def test_names_in_any_case() -> None:
    document = {"image": "busybox", "HOSTCONFIG": {"memory": 1, "portbindings": {"80/tcp": [{"hostport": "1"}]}}}
    assert bodies.CONTAINER_CREATE.read(document) == {
        "Image": "busybox",
        "HostConfig": {"Memory": 1, "PortBindings": {"80/tcp": [{"HostPort": "1"}]}},
    }
    assert bodies.EXEC_CREATE.read({"detachKeys": "ctrl-p"}) == {"DetachKeys": "ctrl-p"}  # docker-py's


def test_keys_of_maps_are_left_alone() -> None:
    document = {"Labels": {"image": "x"}, "ExposedPorts": {"80/TCP": {}}, "Unknown": 3}
    assert bodies.CONTAINER_CREATE.read(document) == document


def test_null_is_nothing_said() -> None:
    document = {"Cmd": None, "Env": ["A=1", None], "HostConfig": {"Binds": None, "PortBindings": {"80/tcp": None}}}
    read = bodies.CONTAINER_CREATE.read(document)
    assert read["Env"] == ["A=1", ""]
    assert read["HostConfig"] == {"Binds": None, "PortBindings": {"80/tcp": []}}


def test_one_string_for_a_list() -> None:
    read = bodies.CONTAINER_CREATE.read({"Cmd": "ls", "Entrypoint": "", "HostConfig": {"CapAdd": "ALL"}})
    assert read == {"Cmd": ["ls"], "Entrypoint": [""], "HostConfig": {"CapAdd": ["ALL"]}}


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"User": 1000}, "cannot unmarshal number 1000 into Go struct field CreateRequest.User of type string"),
    ({"Tty": "true"}, "cannot unmarshal string into Go struct field CreateRequest.Tty of type bool"),
    ({"Env": {"A": "1"}}, "cannot unmarshal object into Go struct field CreateRequest.Env of type []string"),
    ({"Labels": ["a=b"]}, "cannot unmarshal array into Go struct field CreateRequest.Labels of type map[string]string"),
    ({"Labels": {"a": 1}}, "cannot unmarshal number 1 into Go struct field CreateRequest.Labels.a of type string"),
    ({"StopTimeout": 1.5}, "cannot unmarshal number 1.5 into Go struct field CreateRequest.StopTimeout of type int"),
    ({"HostConfig": {"Memory": 1 << 63}}, "CreateRequest.HostConfig.Memory of type int64"),
    ({"HostConfig": {"BlkioWeight": -1}}, "CreateRequest.HostConfig.BlkioWeight of type uint16"),
    ({"HostConfig": {"Init": 1}}, "CreateRequest.HostConfig.Init of type bool"),
    ({"HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": 8080}]}}}, "PortBindings.80/tcp.HostPort of type string"),
    ({"HostConfig": {"Mounts": [{"TmpfsOptions": {"Mode": "700"}}]}}, "Mounts.TmpfsOptions.Mode of type uint32"),
    ({"NetworkingConfig": {"EndpointsConfig": {"n": []}}}, "NetworkingConfig.EndpointsConfig.n of type struct"),
]


@pytest.mark.parametrize("document, words", WRONG, ids=[next(iter(document)) for document, _ in WRONG])
def test_wrong_types(document: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidParameter) as refusal:
        bodies.CONTAINER_CREATE.read(document)
    assert str(refusal.value).startswith("invalid JSON: json: ")
    assert words in str(refusal.value)
