"""`docker build --check`: finds what a Dockerfile does that it should not, without building it."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from runtime.dockerfile import lines, parser
from runtime.dockerfile import lint_rules as rules
from runtime.dockerfile.errors import DockerfileError, excerpt
from runtime.dockerfile.expansion import expanded
from runtime.dockerfile.ignore import Matcher
from runtime.dockerfile.lint_rules import Rule
from runtime.dockerfile.lint_stages import StageChecks
from runtime.dockerfile.model import Dockerfile, Location, Stage
from runtime.dockerfile.stages import global_values
from runtime.dockerfile.wording import suggestion
from runtime.errors import InvalidParameter
from runtime.oci import reference

_RESERVED_STAGES = ("context", "scratch")
_PLATFORM = re.compile(r"[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+){0,2}")
_BOOLEANS = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}

BaseEnv = Callable[[str], Mapping[str, str] | None]
"""The environment an image sets; None when it is not known."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found. `message` is about this place, the rule's description about the rule."""

    rule: Rule
    message: str
    location: Location

    def text(self, source: str, name: str = "Dockerfile") -> str:
        """As `docker build --check` prints it."""
        head = f"{self.rule.name} - {self.rule.url}" if self.rule.url else self.rule.name
        return f"{head}\n{self.message}\n{excerpt(source, self.location, name)}"


@dataclass(frozen=True, slots=True)
class Options:
    """The `check` directive: `skip=all` or names, `experimental=all` or names, `error=true`."""

    skip: frozenset[str] = frozenset()
    skip_all: bool = False
    experimental: frozenset[str] = frozenset()
    experimental_all: bool = False
    error: bool = False

    def runs(self, rule: Rule) -> bool:
        if rule.experimental:
            return self.experimental_all or rule.name in self.experimental
        return not self.skip_all and rule.name not in self.skip


def parse_options(text: str) -> Options:
    """Reads what stands behind `# check=`, or the build argument BUILDKIT_DOCKERFILE_CHECK. Raises DockerfileError."""
    found: dict[str, str] = {}
    for part in text.strip().split(";") if text.strip() else []:
        key, equals, value = part.partition("=")
        if not equals:
            raise DockerfileError(f'invalid check option "{part}"')
        if key.strip() not in ("skip", "experimental", "error"):
            raise DockerfileError(f'invalid check option "{key.strip()}"')
        found[key.strip()] = value.strip()
    error = _BOOLEANS.get(found.get("error", "false").lower())
    if error is None:
        raise DockerfileError(f'failed to parse check option "error={found["error"]}": write error=true or error=false')
    skip, experimental = (
        frozenset(name.strip() for name in found.get(key, "").split(",")) for key in ("skip", "experimental")
    )
    return Options(skip, "all" in skip, experimental, "all" in experimental, error)


def lint(
    source: str | bytes,
    *,
    build_args: Mapping[str, str] | None = None,
    platform_args: Mapping[str, str] | None = None,
    ignore: Matcher | None = None,
    base_env: BaseEnv | None = None,
) -> list[Finding]:
    """What every stage of a Dockerfile gives rise to, by line. Raises DockerfileError where a build would, too.

    `platform_args` come from `platform_args.global_args`, `ignore` is the context's. Without `base_env` base images
    are taken to set PATH only; where it answers None, variables of that stage are not judged.
    """
    text = (source.decode("utf-8", "replace") if isinstance(source, bytes) else source).removeprefix("\ufeff")
    read = lines.read(text)
    given = build_args or {}
    options = _options(read, given)
    dockerfile = parser.of_lines(read, text)
    found: list[Finding] = []

    def report(rule: Rule, location: Location, *values: str, hint: str = "") -> None:
        if options.runs(rule):
            found.append(Finding(rule, rule.message.format(*values) + hint, location))

    _check_lines(read, report)
    _check_casing(read, report)
    _check_stage_names(dockerfile.stages, report)
    _check_from(dockerfile, given, platform_args or {}, report)
    keywords = {node.location.first_line: node.keyword for node in read.nodes}
    StageChecks(dockerfile, given, platform_args or {}, ignore, base_env, keywords, report).run()
    return sorted(found, key=lambda finding: finding.location.first_line)


def _options(read: lines.Lines, build_args: Mapping[str, str]) -> Options:
    line = read.directive_lines.get("check", 1)
    text = build_args.get("BUILDKIT_DOCKERFILE_CHECK", read.directives.check)
    try:
        return parse_options(text)
    except DockerfileError as error:
        raise DockerfileError(str(error), Location(line, line)) from error


def violation(source: str, findings: Iterable[Finding], build_args: Mapping[str, str] | None = None) -> str:
    """With `error=true`, the sentence a build is refused with for its findings; "" otherwise."""
    names = sorted({finding.rule.name for finding in findings})
    if not names or not _options(lines.read(source), build_args or {}).error:
        return ""
    return f"lint violation found for rules: {', '.join(names)}"


def report_text(source: str, findings: list[Finding], name: str = "Dockerfile") -> str:
    """All findings, and the sentence `docker build --check` ends with."""
    count = len(findings)
    if not count:
        return "Check complete, no warnings found."
    has = "1 warning has" if count == 1 else f"{count} warnings have"
    return "\n\n".join([*(finding.text(source, name) for finding in findings), f"Check complete, {has} been found!"])


def base_image_platform(image: str, expected: str, actual: str, location: Location) -> Finding | None:
    """For an executor that has pulled `image`: whether it is for another platform (`os/architecture[/variant]`)."""
    if expected.split("/")[:2] == actual.split("/")[:2]:
        return None
    rule = rules.INVALID_BASE_IMAGE_PLATFORM
    return Finding(rule, rule.message.format(image, actual, expected), location)


Report = Callable[..., None]


def _check_lines(read: lines.Lines, report: Report) -> None:
    for node in read.nodes:
        words = node.arguments.words
        if node.empty_continuation:
            below = sum(doc.raw_content.count("\n") + 1 for doc in node.heredocs)
            line = node.location.last_line - below
            report(rules.NO_EMPTY_CONTINUATION, Location(line, line))
        if node.name == "MAINTAINER":
            report(rules.MAINTAINER_DEPRECATED, node.location)
        elif node.name == "FROM" and len(words) == 3:
            if words[2] != words[2].lower():
                report(rules.STAGE_NAME_CASING, node.location, words[2])
            if _casing(node.keyword) and _casing(words[1]) != _casing(node.keyword):
                report(rules.FROM_AS_CASING, node.location, words[1], node.keyword)
            _check_description(node, [words[2].lower()], report)
        elif node.name == "ARG":
            _check_description(node, [word.partition("=")[0] for word in words], report)


def _check_description(node: lines.Node, names: list[str], report: Report) -> None:
    if not node.comments or node.comments[-1].split(" ")[0] in names:
        return
    name = names[0] if len(names) == 1 else "<arg_key>"
    report(rules.INVALID_DEFINITION_DESCRIPTION, node.location, node.name, name)


def _casing(word: str) -> str:
    """`lowercase`, `uppercase`, or "" when mixed."""
    return "lowercase" if word == word.lower() else "uppercase" if word == word.upper() else ""


def _check_casing(read: lines.Lines, report: Report) -> None:
    first = next((index for index, node in enumerate(read.nodes) if node.name == "FROM"), 0)
    nodes = read.nodes[first:]
    casings = [_casing(node.keyword) for node in nodes]
    majority = "lowercase" if casings.count("lowercase") > casings.count("uppercase") else "uppercase"
    for node, casing in zip(nodes, casings, strict=True):
        if casing != majority:
            report(rules.CONSISTENT_INSTRUCTION_CASING, node.location, node.keyword, majority)


def _check_stage_names(stages: Iterable[Stage], report: Report) -> None:
    seen: set[str] = set()
    for stage in stages:
        if stage.name in _RESERVED_STAGES:
            report(rules.RESERVED_STAGE_NAME, stage.location, stage.name)
        if stage.name and stage.name in seen:
            report(rules.DUPLICATE_STAGE_NAME, stage.location, stage.name)
        seen.add(stage.name)


def _check_from(
    dockerfile: Dockerfile, build_args: Mapping[str, str], platform_args: Mapping[str, str], report: Report
) -> None:
    declared = {pair.key for arg in dockerfile.global_args for pair in arg.pairs} | set(platform_args)
    values = {**platform_args, **global_values(dockerfile, build_args, platform_args)}
    defaults = {**platform_args, **global_values(dockerfile, {}, platform_args)}
    escape = dockerfile.directives.escape
    for stage in dockerfile.stages:
        unmatched: set[str] = set()
        try:
            if not _is_image(expanded(stage.base, defaults, escape).text):
                report(rules.INVALID_DEFAULT_ARG_IN_FROM, stage.location, stage.base)
            unmatched |= expanded(stage.base, values, escape).unmatched
            if stage.platform:
                unmatched |= _check_platform(stage, values, escape, report)
        except DockerfileError as error:
            raise DockerfileError(str(error), stage.location) from error
        for name in sorted(unmatched - declared):
            match = suggestion(name, sorted(declared))
            hint = f" (did you mean {match}?)" if match else ""
            report(rules.UNDEFINED_ARG_IN_FROM, stage.location, name, hint=hint)


def _check_platform(stage: Stage, values: Mapping[str, str], escape: str, report: Report) -> frozenset[str]:
    platform = expanded(stage.platform, values, escape)
    if platform.matched == {"TARGETPLATFORM"} and not platform.unmatched:
        if platform.text == values["TARGETPLATFORM"]:
            report(rules.REDUNDANT_TARGET_PLATFORM, stage.location, stage.platform)
    elif not platform.matched and not platform.unmatched and _PLATFORM.fullmatch(platform.text):
        parts = platform.text.lower().split("/")
        named = parts[:2] if len(parts) > 1 else parts
        if not any(part in stage.name for part in named):
            report(rules.FROM_PLATFORM_FLAG_CONST_DISALLOWED, stage.location, platform.text)
    return platform.unmatched


def _is_image(name: str) -> bool:
    try:
        reference.parse_name(name)
    except InvalidParameter:
        return False
    return True
