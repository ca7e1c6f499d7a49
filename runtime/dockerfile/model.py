"""A parsed Dockerfile: stages of instructions, words as written.

Variables are not expanded here, because their values are known only while building: `EXPANDED_FIELDS` says which
fields an executor passes through `runtime.dockerfile.expansion`, and how.

Source: Dockerfile reference (docs.docker.com/reference/dockerfile).
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Location:
    """Lines of the Dockerfile, counted from 1, both ends included."""

    first_line: int
    last_line: int


@dataclass(frozen=True, slots=True)
class Heredoc:
    """A here-document. `content` ends with a newline unless empty; tabs are stripped already for `<<-`.

    `expand` is false when the delimiter was quoted. `raw_content` is as written (RUN hands it to the shell whole).
    """

    name: str
    content: str
    expand: bool = True
    strip_tabs: bool = False
    raw_content: str = ""


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One pair of ENV or LABEL. `legacy`: written `KEY value` without `=`."""

    key: str
    value: str
    legacy: bool = False


@dataclass(frozen=True, slots=True)
class ArgPair:
    """One declaration of ARG; `value` is None when it has no default (and "" for `ARG a=`)."""

    key: str
    value: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Instruction:
    """`text` is the instruction with its flags and here-documents as written, continuation lines joined."""

    location: Location
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(_Instruction):
    """`command` is argv in the exec form, one string in the shell form (run by the stage's SHELL).

    With here-documents use `run_script`. `mounts` are the values of `--mount` as written: `mounts.parse_mount`
    reads one once its variables can be expanded. `network`: default, none or host; `security`: sandbox or insecure.
    """

    command: tuple[str, ...]
    shell_form: bool
    heredocs: tuple[Heredoc, ...] = ()
    mounts: tuple[str, ...] = ()
    network: str = "default"
    security: str = "sandbox"


@dataclass(frozen=True, slots=True)
class RunMount:
    """A `--mount` of RUN after `mounts.parse_mount`. `type`: bind, cache, tmpfs, secret or ssh.

    `from_` is a stage, named context or image ("" is the build context); `source` is below it. `target` is made
    absolute with the working directory by the executor; it is "" for a secret given with `env` only, and for ssh and
    secret mounts with the default target. `sharing`: shared, private or locked (cache). `id` identifies a cache (""
    means: its target), secret or ssh agent. `mode`, `uid`, `gid` are None when not given.
    """

    type: str
    target: str
    source: str = ""
    from_: str = ""
    read_only: bool = False
    sharing: str = "shared"
    id: str = ""
    size_bytes: int | None = None
    required: bool = False
    env: str | None = None
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy(_Instruction):
    """`sources` may be empty when there are here-documents, which are files named by their delimiter.

    `from_` is a stage's name or index, a named context or an image; "" is the build context. `chmod` is octal or
    symbolic, `chown` `user[:group]`, both "" when not given.
    """

    sources: tuple[str, ...]
    destination: str
    heredocs: tuple[Heredoc, ...] = ()
    from_: str = ""
    chown: str = ""
    chmod: str = ""
    link: bool = False
    parents: bool = False
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Add(_Instruction):
    """As Copy; `sources` may be URLs and git references (`sources.classify`).

    `unpack` is None when not given: archives of the context are unpacked then, downloaded ones are not.
    `keep_git_dir` None is false.
    """

    sources: tuple[str, ...]
    destination: str
    heredocs: tuple[Heredoc, ...] = ()
    chown: str = ""
    chmod: str = ""
    link: bool = False
    exclude: tuple[str, ...] = ()
    checksum: str = ""
    keep_git_dir: bool | None = None
    unpack: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Env(_Instruction):
    pairs: tuple[KeyValue, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Label(_Instruction):
    pairs: tuple[KeyValue, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arg(_Instruction):
    pairs: tuple[ArgPair, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cmd(_Instruction):
    """`command` is argv in the exec form, one string in the shell form (prefix the stage's SHELL); may be empty."""

    command: tuple[str, ...]
    shell_form: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrypoint(_Instruction):
    """As Cmd. An Entrypoint clears the Cmd inherited from the base image, unless the stage itself set one."""

    command: tuple[str, ...]
    shell_form: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Expose(_Instruction):
    """Each word may expand to several; `ports.exposed_ports` reads what came out."""

    ports: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume(_Instruction):
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class User(_Instruction):
    user: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Workdir(_Instruction):
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StopSignal(_Instruction):
    signal: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell(_Instruction):
    command: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Healthcheck(_Instruction):
    """`test` as in the image configuration: ("NONE",), ("CMD", argv...) or ("CMD-SHELL", text). 0 is the default."""

    test: tuple[str, ...]
    interval_ns: int = 0
    timeout_ns: int = 0
    start_period_ns: int = 0
    start_interval_ns: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class OnBuild(_Instruction):
    """`expression` is the trigger's text, kept in the image and parsed by `parser.parse_onbuild` when it is a base."""

    expression: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Maintainer(_Instruction):
    maintainer: str


Instruction: TypeAlias = (
    Run
    | Copy
    | Add
    | Env
    | Label
    | Arg
    | Cmd
    | Entrypoint
    | Expose
    | Volume
    | User
    | Workdir
    | StopSignal
    | Shell
    | Healthcheck
    | OnBuild
    | Maintainer
)


@dataclass(frozen=True, slots=True)
class Stage:
    """One FROM and what follows it. `name` is in lower case, "" without AS; `base` and `platform` as written.

    `base` may be an earlier stage's name, an image reference or `scratch`, and holds variables of global ARGs only.
    """

    index: int
    name: str
    base: str
    platform: str
    instructions: tuple[Instruction, ...]
    location: Location
    text: str
    comment: str = ""

    @property
    def label(self) -> str:
        """How BuildKit names the stage in its progress: the name, or `stage-N`."""
        return self.name or f"stage-{self.index}"


@dataclass(frozen=True, slots=True)
class Directives:
    """Parser directives at the top: `syntax` and `check` as written, "" when absent; `escape` is \\ or `."""

    syntax: str = ""
    escape: str = "\\"
    check: str = ""


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """`global_args` are the ARGs before the first FROM; `source` is the text, for excerpts in errors."""

    directives: Directives
    global_args: tuple[Arg, ...]
    stages: tuple[Stage, ...]
    source: str


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """A stage to build, made by `stages.plan`: FROM's variables expanded, what it needs found.

    `base_stage` is the index of the stage FROM names, or None: then `base_image` is a reference or `scratch`.
    `needs` are the indexes of all stages that must be built before (FROM, COPY --from, RUN --mount=from=), sorted.
    `images` are what --from names that is no stage: images or named contexts. `platform` is "" without --platform.
    """

    stage: Stage
    base_stage: int | None
    base_image: str
    platform: str
    needs: tuple[int, ...]
    images: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """Only the stages the target needs, every stage after those it needs; the target is last.

    `global_args` are the values of the ARGs before the first FROM, which `ARG name` in a stage takes over.
    """

    stages: tuple[PlannedStage, ...]
    target: int
    global_args: dict[str, str]


class Expansion(Enum):
    """How a field is expanded, by the functions of `runtime.dockerfile.expansion`."""

    WORD = auto()
    """`expand`: quotes removed, one word stays one word. In a tuple, each member; in pairs, key and value."""
    WORDS = auto()
    """`expand_words`: the result is split at unquoted blanks."""
    HEREDOC = auto()
    """`expand_heredoc` of the content of each Heredoc with `expand`; quotes stay."""
    MOUNT = auto()
    """Each is read by `mounts.parse_mount` with the expander."""


EXPANDED_FIELDS: dict[type[Instruction], dict[str, Expansion]] = {
    Add: {
        "sources": Expansion.WORD,
        "destination": Expansion.WORD,
        "heredocs": Expansion.HEREDOC,
        "chown": Expansion.WORD,
        "chmod": Expansion.WORD,
        "checksum": Expansion.WORD,
        "exclude": Expansion.WORD,
    },
    Arg: {"pairs": Expansion.WORD},
    Copy: {
        "sources": Expansion.WORD,
        "destination": Expansion.WORD,
        "heredocs": Expansion.HEREDOC,
        "chown": Expansion.WORD,
        "chmod": Expansion.WORD,
        "exclude": Expansion.WORD,
    },
    Env: {"pairs": Expansion.WORD},
    Expose: {"ports": Expansion.WORDS},
    Label: {"pairs": Expansion.WORD},
    Run: {"mounts": Expansion.MOUNT},
    StopSignal: {"signal": Expansion.WORD},
    User: {"user": Expansion.WORD},
    Volume: {"paths": Expansion.WORD},
    Workdir: {"path": Expansion.WORD},
}
"""Fields not named here hold no variables: RUN's command is expanded by the shell, CMD and the rest never."""
