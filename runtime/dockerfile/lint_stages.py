"""The checks that follow a stage from instruction to instruction, with its variables."""

import posixpath
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from runtime.dockerfile import lint_rules as rules
from runtime.dockerfile import mounts, ports
from runtime.dockerfile.errors import DockerfileError, on_line
from runtime.dockerfile.expansion import expand_words, expanded
from runtime.dockerfile.ignore import Matcher
from runtime.dockerfile.model import (
    EXPANDED_FIELDS,
    Add,
    Arg,
    ArgPair,
    Cmd,
    Copy,
    Dockerfile,
    Entrypoint,
    Env,
    Expansion,
    Expose,
    Healthcheck,
    Heredoc,
    Instruction,
    KeyValue,
    Label,
    Location,
    Shell,
    Stage,
    Workdir,
)
from runtime.dockerfile.sources import Kind, classify
from runtime.dockerfile.stages import StageNames, global_values
from runtime.dockerfile.wording import suggestion

_SECRET = re.compile(
    r"(?:_|^)(?:apikey|auth|credential|credentials|key|password|pword|passwd|secret|token)(?:_|$)", re.IGNORECASE
)
_NO_SECRET = re.compile(r"(?:_|^)(?:public|file|version)(?:_|$)", re.IGNORECASE)
_NOT_VARIABLES = frozenset({"BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"})
_DEFAULT_ENV = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
_ONCE = (Cmd, Entrypoint, Healthcheck)


@dataclass(slots=True)
class _State:
    """What a stage knows so far; a stage on top of another begins with a copy."""

    env: dict[str, str] = field(default_factory=dict)
    args: dict[str, str] = field(default_factory=dict)
    declared: set[str] = field(default_factory=set)
    env_known: bool = True
    workdir_set: bool = False
    shell_set: bool = False

    def variables(self) -> dict[str, str]:
        return {**self.args, **self.env}

    def copy(self) -> "_State":
        return _State(
            dict(self.env), dict(self.args), set(self.declared), self.env_known, self.workdir_set, self.shell_set
        )


class StageChecks:
    """Runs over all stages. `keywords` are the instructions' names as written, by their first line."""

    def __init__(
        self,
        dockerfile: Dockerfile,
        build_args: Mapping[str, str],
        platform_args: Mapping[str, str],
        ignore: Matcher | None,
        base_env: Callable[[str], Mapping[str, str] | None] | None,
        keywords: Mapping[int, str],
        report: Callable[..., None],
    ) -> None:
        self._dockerfile = dockerfile
        self._names = StageNames(dockerfile)
        self._escape = dockerfile.directives.escape
        self._build_args = build_args
        self._globals = {**platform_args, **global_values(dockerfile, build_args, platform_args)}
        self._ignore = ignore
        self._base_env = base_env
        self._keywords = keywords
        self._report = report

    def run(self) -> None:
        states: list[_State] = []
        for stage in self._dockerfile.stages:
            state = self._beginning(stage, states)
            states.append(state)
            once: dict[type[Instruction], Location] = {}
            for instruction in stage.instructions:
                try:
                    self._check(instruction, state, once)
                except DockerfileError as error:
                    raise on_line(error, instruction.location) from error

    def _beginning(self, stage: Stage, states: list[_State]) -> _State:
        base = expanded(stage.base, self._globals, self._escape).text
        index = self._names.before(base, stage.index)
        if index is not None:
            return states[index].copy()
        env: Mapping[str, str] | None = _DEFAULT_ENV
        if self._base_env is not None and base != "scratch":
            env = self._base_env(base)
        return _State(env=dict(env or {}), env_known=env is not None)

    def _check(self, instruction: Instruction, state: _State, once: dict[type[Instruction], Location]) -> None:
        keyword = self._keywords.get(instruction.location.first_line, "")
        words = self._expanded(instruction, state)
        if isinstance(instruction, _ONCE):
            kind = type(instruction)
            if kind in once:
                self._report(rules.MULTIPLE_INSTRUCTIONS_DISALLOWED, once[kind], keyword)
            once[kind] = instruction.location
        if isinstance(instruction, (Cmd, Entrypoint)) and instruction.shell_form and not state.shell_set:
            self._report(rules.JSON_ARGS_RECOMMENDED, instruction.location, keyword)
        elif isinstance(instruction, Shell):
            state.shell_set = True
        elif isinstance(instruction, (Env, Label)):
            self._check_pairs(instruction, state, keyword)
        elif isinstance(instruction, Arg):
            self._declare(instruction, state)
        elif isinstance(instruction, Workdir):
            path = words[0] if words else instruction.path
            if not state.workdir_set and not path.startswith("/"):
                self._report(rules.WORKDIR_RELATIVE_PATH, instruction.location, path)
            state.workdir_set = True
        elif isinstance(instruction, Expose):
            self._check_ports(instruction, state)
        elif isinstance(instruction, (Copy, Add)):
            self._check_ignored(instruction, state)

    def _expanded(self, instruction: Instruction, state: _State) -> list[str]:
        """The words of `instruction` expanded; those of variables that nobody set are reported."""
        variables = state.variables()
        unmatched: set[str] = set()
        results: list[str] = []

        def one(word: str, *, keep_quotes: bool = False) -> str:
            escape = "\\" if keep_quotes else self._escape
            result = expanded(word, variables, escape, keep_quotes=keep_quotes)
            unmatched.update(result.unmatched)
            results.append(result.text)
            return result.text

        for name, how in EXPANDED_FIELDS.get(type(instruction), {}).items():
            value = getattr(instruction, name)
            for item in value if isinstance(value, tuple) else (value,):
                if how is Expansion.MOUNT:
                    mounts.parse_mount(item, one)
                elif isinstance(item, Heredoc):
                    if item.expand:
                        one(item.content, keep_quotes=True)
                elif isinstance(item, (KeyValue, ArgPair)):
                    one(item.key)
                    if item.value is not None:
                        one(item.value)
                elif how is Expansion.WORD:
                    one(item)
        if state.env_known:
            for variable in sorted(unmatched - state.declared - _NOT_VARIABLES):
                match = suggestion(variable, sorted(variables))
                hint = f" (did you mean ${match}?)" if match else ""
                self._report(rules.UNDEFINED_VAR, instruction.location, variable, hint=hint)
        return results

    def _check_pairs(self, instruction: Env | Label, state: _State, keyword: str) -> None:
        variables = state.variables()
        for pair in instruction.pairs:
            if pair.legacy:
                self._report(rules.LEGACY_KEY_VALUE_FORMAT, instruction.location, keyword)
            if isinstance(instruction, Env):
                key = expanded(pair.key, variables, self._escape).text
                state.env[key] = expanded(pair.value, variables, self._escape).text
                self._check_secret("ENV", key, instruction.location)

    def _declare(self, instruction: Arg, state: _State) -> None:
        for pair in instruction.pairs:
            variables = state.variables()
            key = expanded(pair.key, variables, self._escape).text
            self._check_secret("ARG", key, instruction.location)
            state.declared.add(key)
            if key in self._build_args:
                state.args[key] = self._build_args[key]
            elif pair.value is not None:
                state.args[key] = expanded(pair.value, variables, self._escape).text
            elif key in self._globals:
                state.args[key] = self._globals[key]

    def _check_secret(self, keyword: str, key: str, location: Location) -> None:
        if _SECRET.search(key) and not _NO_SECRET.search(key):
            self._report(rules.SECRETS_USED_IN_ARG_OR_ENV, location, keyword, key)

    def _check_ports(self, instruction: Expose, state: _State) -> None:
        variables = state.variables()
        for port in instruction.ports:
            for word in expand_words(port, variables, self._escape):
                exposed = ports.split(word)
                if exposed.protocol != exposed.protocol.lower():
                    self._report(rules.EXPOSE_PROTO_CASING, instruction.location, word)
                if exposed.published_to:
                    self._report(rules.EXPOSE_INVALID_FORMAT, instruction.location, word)

    def _check_ignored(self, instruction: Copy | Add, state: _State) -> None:
        """With exceptions in the ignore file nothing can be said of a directory."""
        if self._ignore is None or self._ignore.has_exceptions:
            return
        if isinstance(instruction, Copy) and instruction.from_:
            return
        verb = "Copy" if isinstance(instruction, Copy) else "Add"
        variables = state.variables()
        for source in instruction.sources:
            word = expanded(source, variables, self._escape).text
            if verb == "Add" and classify(word)[0] is not Kind.LOCAL:
                continue
            path = posixpath.normpath(word).lstrip("/")
            if self._ignore.ignores(path):
                self._report(rules.COPY_IGNORED_FILE, instruction.location, verb, path)
