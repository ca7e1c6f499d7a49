"""Each rule of `docker build --check`: what it says, where, and when it is silent."""

import pytest

from runtime.dockerfile.errors import DockerfileError
from runtime.dockerfile.ignore import Matcher
from runtime.dockerfile.lint import base_image_platform, lint, report_text, violation
from runtime.dockerfile.model import Location
from runtime.dockerfile.platform_args import global_args

PLATFORMS = global_args("linux/amd64", "linux/amd64")


def findings(source: str, **given: object) -> list[tuple[str, int, str]]:
    found = lint(source, platform_args=PLATFORMS, **given)  # type: ignore[arg-type]
    return [(one.rule.name, one.location.first_line, one.message) for one in found]


@pytest.mark.parametrize(
    ("source", "rule", "line", "message"),
    [
        ("FROM a AS Base", "StageNameCasing", 1, "Stage name 'Base' should be lowercase"),
        ("FROM a as b", "FromAsCasing", 1, "'as' and 'FROM' keywords' casing do not match"),
        ("FROM a\nRUN x \\\n\n y", "NoEmptyContinuation", 4, "Empty continuation line"),
        (
            "FROM a\nrun x\nUSER y",
            "ConsistentInstructionCasing",
            2,
            "Command 'run' should match the case of the command majority (uppercase)",
        ),
        (
            "FROM a AS b\nFROM a AS b",
            "DuplicateStageName",
            2,
            'Duplicate stage name "b", stage names should be unique',
        ),
        (
            "FROM a AS context",
            "ReservedStageName",
            1,
            'Stage name should not use the same name as reserved stage "context"',
        ),
        (
            "FROM a\nENTRYPOINT x",
            "JSONArgsRecommended",
            2,
            "JSON arguments recommended for ENTRYPOINT to prevent unintended behavior related to OS signals",
        ),
        (
            "FROM a\nMAINTAINER x",
            "MaintainerDeprecated",
            2,
            "Maintainer instruction is deprecated in favor of using label",
        ),
        (
            "ARG VARIANT=1\nFROM a:1${VARIAN}",
            "UndefinedArgInFrom",
            2,
            "FROM argument 'VARIAN' is not declared (did you mean VARIANT?)",
        ),
        (
            "FROM a\nWORKDIR x\nWORKDIR y",
            "WorkdirRelativePath",
            2,
            'Relative workdir "x" can have unexpected results if the base image changes',
        ),
        (
            "FROM a\nENV PATH=$PAHT:/b",
            "UndefinedVar",
            2,
            "Usage of undefined variable '$PAHT' (did you mean $PATH?)",
        ),
        ("FROM a\nCOPY $x /", "UndefinedVar", 2, "Usage of undefined variable '$x'"),
        (
            'FROM a\nCMD ["a"]\nCMD ["b"]',
            "MultipleInstructionsDisallowed",
            2,
            "Multiple CMD instructions should not be used in the same stage because only the last one will be used",
        ),
        (
            "FROM a\nENV a b",
            "LegacyKeyValueFormat",
            2,
            '"ENV key=value" should be used instead of legacy "ENV key value" format',
        ),
        (
            "FROM --platform=$TARGETPLATFORM a",
            "RedundantTargetPlatform",
            1,
            "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
        ),
        (
            "FROM a\nARG AWS_SECRET_TOKEN",
            "SecretsUsedInArgOrEnv",
            2,
            'Do not use ARG or ENV instructions for sensitive data (ARG "AWS_SECRET_TOKEN")',
        ),
        (
            "ARG TAG\nFROM a:${TAG}",
            "InvalidDefaultArgInFrom",
            2,
            "Default value for ARG a:${TAG} results in empty or invalid base image name",
        ),
        (
            "FROM --platform=linux/arm64 a AS x",
            "FromPlatformFlagConstDisallowed",
            1,
            'FROM --platform flag should not use constant value "linux/arm64"',
        ),
        (
            "# check=experimental=all\nFROM a\nCOPY ./secret.txt /",
            "CopyIgnoredFile",
            3,
            'Attempting to Copy file "secret.txt" that is excluded by .dockerignore',
        ),
        (
            "# check=experimental=InvalidDefinitionDescription\n# tools\nFROM a AS base",
            "InvalidDefinitionDescription",
            3,
            "Comment for FROM should follow the format: `# base <description>`",
        ),
        (
            "FROM a\nEXPOSE 80/TCP",
            "ExposeProtoCasing",
            2,
            "Defined protocol '80/TCP' in EXPOSE instruction should be lowercase",
        ),
        (
            "FROM a\nEXPOSE 127.0.0.1:80:80",
            "ExposeInvalidFormat",
            2,
            "EXPOSE instruction should not define an IP address or host-port mapping, found '127.0.0.1:80:80'",
        ),
    ],
)
def test_a_rule_is_broken(source: str, rule: str, line: int, message: str) -> None:
    assert findings(source, ignore=Matcher(["secret*"])) == [(rule, line, message)]
    directive = f"# check=skip={rule}\n"
    if not source.startswith("#"):
        assert findings(directive + source) == []


@pytest.mark.parametrize(
    "source",
    [
        "from a as b",
        "FROM a AS b\n",
        'FROM a\nSHELL ["bash", "-c"]\nCMD x',
        'FROM a AS b\nSHELL ["bash", "-c"]\nFROM b\nCMD x',
        "FROM a\nWORKDIR /x\nWORKDIR y",
        "FROM a AS b\nWORKDIR /x\nFROM b\nWORKDIR y",
        "FROM a\nARG x\nENV y=$x",
        "FROM a\nENV x=1\nENV y=$x",
        "FROM a AS b\nENV x=1\nFROM b\nRUN --mount=target=/$x true",
        "FROM a\nENV x=1\nCOPY <<EOF /y\n$x\nEOF",
        "FROM a\nENV PUBLIC_KEY=1 TOKEN_FILE=x MONKEY=1",
        "ARG TAG=1\nFROM a:${TAG}",
        "FROM --platform=linux/arm64 a AS build-arm64",
        "FROM --platform=$BUILDPLATFORM a",
        "# tools\nFROM a AS base",
        "FROM a\nRUN x \\\n# comment\n y",
        'FROM a\nCMD ["a"]\nFROM a\nCMD ["b"]',
        "FROM a\nEXPOSE 80 90/udp",
        "FROM a\nCOPY secret.txt /",
    ],
)
def test_rules_are_silent(source: str) -> None:
    assert findings(source, ignore=Matcher(["secret*"])) == []


def test_options() -> None:
    source = "FROM a as Base\n"
    assert [name for name, _, _ in findings(source)] == ["StageNameCasing", "FromAsCasing"]
    assert findings(f"# check=skip=all\n{source}") == []
    assert [name for name, _, _ in findings(f"# check=skip=FromAsCasing;error=true\n{source}")] == ["StageNameCasing"]
    assert findings(source, build_args={"BUILDKIT_DOCKERFILE_CHECK": "skip=all"}) == []
    with pytest.raises(DockerfileError, match="invalid check option"):
        findings(f"# check=skp=all\n{source}")


def test_error_true_refuses_the_build() -> None:
    source = "FROM a as Base\n"
    assert violation(source, lint(source)) == ""
    strict = f"# check=error=true\n{source}"
    assert violation(strict, lint(strict)) == "lint violation found for rules: FromAsCasing, StageNameCasing"


def test_the_environment_of_base_images() -> None:
    source = "FROM java\nENV PATH=$JAVA_HOME/bin:$PATH"
    assert [name for name, _, _ in findings(source)] == ["UndefinedVar"]
    assert findings(source, base_env=lambda _: {"PATH": "/bin", "JAVA_HOME": "/j"}) == []
    assert findings(source, base_env=lambda _: None) == []


def test_another_platforms_base_image() -> None:
    found = base_image_platform("a:1", "linux/amd64", "linux/arm64", Location(1, 1))
    assert found is not None
    assert (
        found.message
        == 'Base image a:1 was pulled with platform "linux/arm64", expected "linux/amd64" for current build'
    )
    assert base_image_platform("a:1", "linux/arm64", "linux/arm64/v8", Location(1, 1)) is None


def test_the_report() -> None:
    source = "FROM a\nMAINTAINER x\n"
    assert report_text(source, lint(source)) == (
        "MaintainerDeprecated - https://docs.docker.com/go/dockerfile/rule/maintainer-deprecated/\n"
        "Maintainer instruction is deprecated in favor of using label\n"
        "Dockerfile:2\n"
        "--------------------\n"
        "   1 |     FROM a\n"
        "   2 | >>> MAINTAINER x\n"
        "   3 |     \n"
        "--------------------\n\n"
        "Check complete, 1 warning has been found!"
    )
    assert report_text("FROM a", []) == "Check complete, no warnings found."
