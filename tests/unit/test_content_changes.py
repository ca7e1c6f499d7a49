"""Dockerfile instructions of `import --change`."""

import pytest

from runtime.content.changes import apply_changes
from runtime.errors import InvalidParameter


def test_instructions_build_up_the_container_defaults() -> None:
    changed = apply_changes(
        {"Env": ["PATH=/bin", "A=old"], "WorkingDir": "/srv"},
        [
            'CMD ["sh", "-c", "exit"]',
            "entrypoint run it",
            "ENV A=1 B='x y'",
            "ENV C the rest",
            "EXPOSE 80 53/udp 8000-8001",
            "LABEL a.b=1",
            "LABEL c=2",
            "USER app:audio",
            'VOLUME ["/data"]',
            "VOLUME /x /y",
            "WORKDIR app",
            "STOPSIGNAL SIGINT",
            "ONBUILD RUN make",
            "HEALTHCHECK --interval=1m30s --retries=2 CMD curl -f localhost",
        ],
    )
    assert changed == {
        "Env": ["PATH=/bin", "A=1", "B=x y", "C=the rest"],
        "WorkingDir": "/srv/app",
        "Cmd": ["sh", "-c", "exit"],
        "Entrypoint": ["/bin/sh", "-c", "run it"],
        "ExposedPorts": {"80/tcp": {}, "53/udp": {}, "8000/tcp": {}, "8001/tcp": {}},
        "Labels": {"a.b": "1", "c": "2"},
        "User": "app:audio",
        "Volumes": {"/data": {}, "/x": {}, "/y": {}},
        "StopSignal": "SIGINT",
        "OnBuild": ["RUN make"],
        "Healthcheck": {"Interval": 90 * 10**9, "Retries": 2, "Test": ["CMD-SHELL", "curl -f localhost"]},
    }


def test_the_given_settings_are_left_as_they_are() -> None:
    settings = {"Env": ["A=1"], "Labels": {"a": "1"}}
    apply_changes(settings, ["ENV A=2", "LABEL a=2"])
    assert settings == {"Env": ["A=1"], "Labels": {"a": "1"}}


@pytest.mark.parametrize(
    "change",
    ["RUN make", "FROM x", "ENV", "ENV A", "ENV A='x", "ENV A=1 B", "EXPOSE 80/x", "EXPOSE 70000", "EXPOSE web",
     "ONBUILD FROM x", "HEALTHCHECK maybe", "HEALTHCHECK --interval=soon CMD x", "HEALTHCHECK --when=now CMD x"],
)  # fmt: skip
def test_what_cannot_be_applied_is_refused(change: str) -> None:
    with pytest.raises(InvalidParameter):
        apply_changes({}, [change])


def test_changes_are_expanded_and_an_entrypoint_clears_the_command_it_found() -> None:
    changed = apply_changes(
        {"Env": ["A=/a"], "Cmd": ["old"]},
        ["ENV B=${A}/b", "WORKDIR $B/../c", 'LABEL x="${N:-none}"', 'ENTRYPOINT ["e"]'],
    )
    assert changed == {
        "Env": ["A=/a", "B=/a/b"],
        "WorkingDir": "/a/c",
        "Labels": {"x": "none"},
        "Entrypoint": ["e"],
    }


def test_what_is_no_change_is_named_as_docker_does() -> None:
    with pytest.raises(InvalidParameter, match=r"^RUN is not a valid change command$"):
        apply_changes({}, ["RUN make"])
