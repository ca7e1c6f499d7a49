"""Which stages are built, and what they need."""

import pytest

from runtime.dockerfile.errors import DockerfileError
from runtime.dockerfile.model import BuildPlan
from runtime.dockerfile.parser import parse
from runtime.dockerfile.platform_args import global_args, undeclared
from runtime.dockerfile.stages import declared_args, plan

PLATFORMS = global_args("linux/amd64", "linux/arm64/v8")
SOURCE = """ARG V=1
ARG W=${V}.0
ARG X
FROM alpine:$W AS base
FROM golang AS tools
FROM --platform=$BUILDPLATFORM base AS Build
COPY --from=tools /a /b
RUN --mount=type=bind,from=BASE,target=/x --mount=from=busybox,target=/y true
FROM base AS test
FROM scratch
COPY --from=2 /b /
COPY --from=docker.io/library/nginx:1 /c /
"""


def stages(planned: BuildPlan) -> list[tuple[str, int | None, str, tuple[int, ...]]]:
    return [(each.stage.label, each.base_stage, each.base_image, each.needs) for each in planned.stages]


def test_only_what_the_target_needs_is_built_in_order() -> None:
    planned = plan(parse(SOURCE), platform_args=PLATFORMS)
    assert stages(planned) == [
        ("base", None, "alpine:1.0", ()),
        ("tools", None, "golang", ()),
        ("build", 0, "", (0, 1)),
        ("stage-4", None, "scratch", (2,)),
    ]
    assert planned.target == 4
    assert [each.images for each in planned.stages] == [(), (), ("busybox",), ("docker.io/library/nginx:1",)]
    assert planned.stages[2].platform == "linux/amd64"
    assert planned.global_args == {"V": "1", "W": "1.0"}


def test_a_target_by_name_or_number_and_build_arguments() -> None:
    planned = plan(parse(SOURCE), "TEST", {"V": "2", "X": "y"}, PLATFORMS)
    assert stages(planned) == [("base", None, "alpine:2.0", ()), ("test", 0, "", (0,))]
    assert planned.global_args == {"V": "2", "W": "2.0", "X": "y"}
    assert plan(parse(SOURCE), "1", None, PLATFORMS).target == 1


def test_a_named_context_stands_before_a_stage() -> None:
    planned = plan(parse("FROM a AS base\nFROM base\nCOPY --from=Base /a /b"), contexts=["base"])
    assert stages(planned) == [("stage-1", None, "base", ())]
    assert planned.stages[0].images == ("Base",)


@pytest.mark.parametrize(
    ("source", "target", "message", "line"),
    [
        ("FROM a AS build", "buld", 'target stage "buld" could not be found (did you mean build?)', None),
        ("FROM a", "9", 'target stage "9" could not be found', None),
        ("FROM a AS s\nCOPY --from=s a b", "", "circular dependency detected on stage: s", 2),
        ("FROM a\nCOPY --from=0 a b", "", "circular dependency detected on stage: stage-0", 2),
        (
            "FROM a AS s0\nCOPY --from=s2 a b\nFROM a AS s1\nCOPY --from=s0 a b\nFROM a AS s2\nCOPY --from=s1 a b",
            "",
            "circular dependency detected on stage: s0",
            2,
        ),
        ("FROM a\nCOPY --from=7 a b", "", "invalid stage index 7", 2),
        ("FROM $X", "", "base name ($X) should not be blank", 1),
        ("FROM --platform=$X a", "", "empty platform value from expression $X", 1),
        ("FROM ${X", "", "failed to process \"${X\": syntax error: missing '}'", 1),
        ("ARG A=${\nFROM a", "", "failed to process \"${\": syntax error: missing '}'", 1),
    ],
)
def test_mistakes(source: str, target: str, message: str, line: int | None) -> None:
    with pytest.raises(DockerfileError) as caught:
        plan(parse(source), target)
    assert str(caught.value) == message
    assert (caught.value.location.first_line if caught.value.location else None) == line


def test_hundreds_of_stages() -> None:
    source = "FROM scratch AS s0\n" + "".join(f"FROM s{number} AS s{number + 1}\n" for number in range(400))
    assert len(plan(parse(source)).stages) == 401


def test_platform_arguments() -> None:
    assert PLATFORMS["TARGETPLATFORM"] == "linux/arm64/v8"
    assert (PLATFORMS["TARGETARCH"], PLATFORMS["TARGETVARIANT"], PLATFORMS["BUILDVARIANT"]) == ("arm64", "v8", "")


def test_build_arguments_nobody_consumes() -> None:
    given = {"V": "1", "http_proxy": "x", "BUILDKIT_INLINE_CACHE": "1", "Y": "2"}
    assert undeclared(given, declared_args(parse(SOURCE))) == ["Y"]
