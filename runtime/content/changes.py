"""Dockerfile instructions applied to an image configuration: the `--change` of docker import and commit.

The allowed set is Docker's (builder/dockerfile, BuildFromConfig).
"""

import posixpath
from collections.abc import Iterable, Sequence
from typing import cast

from runtime.dockerfile import instructions, lines, model
from runtime.dockerfile.errors import DockerfileError
from runtime.dockerfile.expansion import expand, expand_words
from runtime.dockerfile.ports import exposed_ports
from runtime.errors import InvalidParameter
from runtime.oci.image import ContainerDefaults, Healthcheck

_SHELL = ["/bin/sh", "-c"]
_ALLOWED = frozenset(
    {
        *("CMD", "ENTRYPOINT", "ENV", "EXPOSE", "HEALTHCHECK", "LABEL", "ONBUILD", "STOPSIGNAL", "USER", "VOLUME"),
        "WORKDIR",
    }
)


def apply_changes(settings: ContainerDefaults, changes: Iterable[str]) -> ContainerDefaults:
    """`settings` with `changes` ("CMD sh", "ENV A=1"...) applied in order. Raises InvalidParameter."""
    text = "\n".join(changes)
    changed = _Changed(settings)
    if text.strip():
        read = lines.read(text)
        for node in read.nodes:
            if node.name not in _ALLOWED:
                raise InvalidParameter(f"{node.keyword} is not a valid change command")
            changed.apply(instructions.read(node), read.directives.escape)
    return changed.settings


class _Changed:
    def __init__(self, settings: ContainerDefaults) -> None:
        self.settings = cast(ContainerDefaults, dict(settings))
        self._cmd_is_own = False

    def apply(self, instruction: model.Instruction, escape: str) -> None:
        settings = self.settings
        variables = dict(item.partition("=")[::2] for item in settings.get("Env", []))

        def one(word: str) -> str:
            return expand(word, variables, escape)

        match instruction:
            case model.Env(pairs=pairs):
                env = {**variables, **{one(pair.key): one(pair.value) for pair in pairs}}
                settings["Env"] = [f"{name}={value}" for name, value in env.items()]
            case model.Label(pairs=pairs):
                labels = {one(pair.key): one(pair.value) for pair in pairs}
                settings["Labels"] = {**settings.get("Labels", {}), **labels}
            case model.Cmd(command=command, shell_form=shell_form):
                settings["Cmd"] = self._command(command, shell_form)
                self._cmd_is_own = True
            case model.Entrypoint(command=command, shell_form=shell_form):
                settings["Entrypoint"] = self._command(command, shell_form)
                if not self._cmd_is_own:
                    settings.pop("Cmd", None)
            case model.Expose(ports=ports):
                exposed = exposed_ports(word for port in ports for word in expand_words(port, variables, escape))
                settings["ExposedPorts"] = {**settings.get("ExposedPorts", {}), **{port: {} for port in exposed}}
            case model.Volume(paths=paths):
                settings["Volumes"] = {**settings.get("Volumes", {}), **{one(path): {} for path in paths}}
            case model.User(user=user):
                settings["User"] = one(user)
            case model.Workdir(path=path):
                settings["WorkingDir"] = posixpath.normpath(
                    posixpath.join("/", settings.get("WorkingDir", ""), one(path))
                )
            case model.StopSignal(signal=signal):
                settings["StopSignal"] = one(signal)
            case model.OnBuild(expression=expression):
                settings["OnBuild"] = [*settings.get("OnBuild", []), expression]
            case model.Healthcheck():
                settings["Healthcheck"] = healthcheck(instruction)
            case _:
                raise DockerfileError(f"{type(instruction).__name__} is not a valid change command")

    def _command(self, command: Sequence[str], shell_form: bool) -> list[str]:
        """The JSON form is run as it is, anything else by the image's shell."""
        shell = self.settings.get("Shell") or _SHELL
        return [*shell, *command] if shell_form and command else list(command)


def healthcheck(instruction: model.Healthcheck) -> Healthcheck:
    """As the image configuration has it; what was not given is left out."""
    check = Healthcheck(Test=list(instruction.test))
    if instruction.interval_ns:
        check["Interval"] = instruction.interval_ns
    if instruction.timeout_ns:
        check["Timeout"] = instruction.timeout_ns
    if instruction.start_period_ns:
        check["StartPeriod"] = instruction.start_period_ns
    if instruction.start_interval_ns:
        check["StartInterval"] = instruction.start_interval_ns
    if instruction.retries:
        check["Retries"] = instruction.retries
    return check
