"""Instructions that change nothing but an image's configuration."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence

from runtime.content.changes import healthcheck
from runtime.dockerfile import model
from runtime.dockerfile.ports import exposed_ports
from runtime.engine.build.state import StageState

METADATA = (
    model.Env,
    model.Label,
    model.Cmd,
    model.Entrypoint,
    model.Expose,
    model.Volume,
    model.User,
    model.StopSignal,
    model.Shell,
    model.Healthcheck,
    model.OnBuild,
    model.Maintainer,
)
Metadata = (
    model.Env
    | model.Label
    | model.Cmd
    | model.Entrypoint
    | model.Expose
    | model.Volume
    | model.User
    | model.StopSignal
    | model.Shell
    | model.Healthcheck
    | model.OnBuild
    | model.Maintainer
)


def apply(state: StageState, instruction: Metadata) -> str:
    """Changes the state by an instruction that is expanded already; what the image's history says of it."""
    settings = state.settings
    match instruction:
        case model.Env(pairs=pairs):
            for pair in pairs:
                state.set_env(pair.key, pair.value)
            return "ENV " + " ".join(f"{pair.key}={pair.value}" for pair in pairs)
        case model.Label(pairs=pairs):
            settings["Labels"] = {**(settings.get("Labels") or {}), **{pair.key: pair.value for pair in pairs}}
            return "LABEL " + " ".join(f"{pair.key}={pair.value}" for pair in pairs)
        case model.Cmd():
            settings["Cmd"] = command_words(state, instruction.command, instruction.shell_form)
            state.cmd_is_own = True
            return f"CMD {_quoted(settings['Cmd'])}"
        case model.Entrypoint():
            settings["Entrypoint"] = command_words(state, instruction.command, instruction.shell_form)
            if not state.cmd_is_own:
                settings.pop("Cmd", None)
            return f"ENTRYPOINT {_quoted(settings['Entrypoint'])}"
        case model.Expose(ports=ports):
            exposed = exposed_ports(ports)
            settings["ExposedPorts"] = {**(settings.get("ExposedPorts") or {}), **{port: {} for port in exposed}}
            return "EXPOSE " + " ".join(ports)
        case model.Volume(paths=paths):
            settings["Volumes"] = {**(settings.get("Volumes") or {}), **{path: {} for path in paths}}
            return f"VOLUME [{' '.join(paths)}]"
        case model.User(user=user):
            settings["User"] = user
            return f"USER {user}"
        case model.StopSignal(signal=signal):
            settings["StopSignal"] = signal
            return f"STOPSIGNAL {signal}"
        case model.Shell(command=command):
            settings["Shell"] = list(command)
            return f"SHELL [{' '.join(command)}]"
        case model.Healthcheck():
            settings["Healthcheck"] = healthcheck(instruction)
            return f"HEALTHCHECK {_quoted(instruction.test)}"
        case model.OnBuild(expression=expression):
            settings["OnBuild"] = [*(settings.get("OnBuild") or []), expression]
            return f"ONBUILD {expression}"
        case model.Maintainer(maintainer=maintainer):
            state.author = maintainer
            return f"MAINTAINER {maintainer}"


def command_words(state: StageState, command: Sequence[str], shell_form: bool) -> list[str]:
    return [*state.shell, *command] if shell_form and command else list(command)


def working_directory(state: StageState, path: str) -> str:
    """Absolute, relative ones below what it was."""
    return posixpath.normpath(posixpath.join("/", state.settings.get("WorkingDir") or "", path)).replace("//", "/")


def _quoted(words: Sequence[str]) -> str:
    """As Go's %q prints a list of strings."""
    return "[" + " ".join('"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"' for word in words) + "]"
