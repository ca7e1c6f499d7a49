"""The Dockerfile language: what is read, and how mistakes are told."""

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.dockerfile import mounts
from runtime.dockerfile.errors import DockerfileError, excerpt
from runtime.dockerfile.heredoc import run_script
from runtime.dockerfile.model import (
    Add,
    Arg,
    ArgPair,
    Cmd,
    Copy,
    Directives,
    Entrypoint,
    Env,
    Expose,
    Healthcheck,
    Instruction,
    KeyValue,
    Label,
    Location,
    OnBuild,
    Run,
    RunMount,
    Shell,
    User,
    Volume,
    Workdir,
)
from runtime.dockerfile.parser import parse, parse_onbuild


def kv(key: str, value: str) -> KeyValue:
    return KeyValue(key, value)


def one(text: str) -> Instruction:
    """The only instruction of a stage."""
    dockerfile = parse(f"FROM scratch\n{text}")
    (instruction,) = dockerfile.stages[0].instructions
    return instruction


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("RUN echo  hi", Run, {"command": ("echo  hi",), "shell_form": True}),
        ('run ["a", "b c"]', Run, {"command": ("a", "b c"), "shell_form": False}),
        ("RUN [ -f x ]", Run, {"command": ("[ -f x ]",), "shell_form": True}),
        ("RUN ['a']", Run, {"command": ("['a']",), "shell_form": True}),
        ("RUN --network=none --security=insecure x", Run, {"network": "none", "security": "insecure"}),
        ("RUN -- --x", Run, {"command": ("--x",)}),
        ("CMD", Cmd, {"command": (), "shell_form": True}),
        ("CMD []", Cmd, {"command": (), "shell_form": False}),
        ("ENTRYPOINT top -b", Entrypoint, {"command": ("top -b",), "shell_form": True}),
        ("COPY a b /c/", Copy, {"sources": ("a", "b"), "destination": "/c/"}),
        ('COPY ["a b", "/c d"]', Copy, {"sources": ("a b",), "destination": "/c d"}),
        (
            "COPY --from=0 --chown=u:g --chmod=u+x --link --parents --exclude=*.a --exclude=*.b x y",
            Copy,
            {
                "from_": "0",
                "chown": "u:g",
                "chmod": "u+x",
                "link": True,
                "parents": True,
                "exclude": ("*.a", "*.b"),
            },
        ),
        ("COPY --link=false a b", Copy, {"link": False}),
        (
            "ADD --checksum=sha256:1 --keep-git-dir --unpack=false http://x /y",
            Add,
            {"checksum": "sha256:1", "keep_git_dir": True, "unpack": False},
        ),
        ("ADD a b", Add, {"keep_git_dir": None, "unpack": None}),
        ("ENV A=1 B='x y' C=x\\ y", Env, {"pairs": (kv("A", "1"), kv("B", "'x y'"), kv("C", "x\\ y"))}),
        ('ENV A the "rest"  =', Env, {"pairs": (KeyValue("A", 'the "rest"  =', legacy=True),)}),
        ('LABEL "a b"="c d" e=', Label, {"pairs": (kv('"a b"', '"c d"'), kv("e", ""))}),
        ("ARG a b= c='d e'", Arg, {"pairs": (ArgPair("a"), ArgPair("b", ""), ArgPair("c", "'d e'"))}),
        ("EXPOSE 80 $P/udp", Expose, {"ports": ("$P/udp", "80")}),
        ("VOLUME /a /b", Volume, {"paths": ("/a", "/b")}),
        ('VOLUME ["/a b"]', Volume, {"paths": ("/a b",)}),
        ("USER  a:b ", User, {"user": "a:b"}),
        ("WORKDIR /a b", Workdir, {"path": "/a b"}),
        ('SHELL ["bash", "-c"]', Shell, {"command": ("bash", "-c")}),
        ("HEALTHCHECK NONE", Healthcheck, {"test": ("NONE",)}),
        (
            "HEALTHCHECK --interval=1m30s --timeout=1.5s --start-period=2h --start-interval=5ms --retries=3 cmd a b",
            Healthcheck,
            {
                "test": ("CMD-SHELL", "a b"),
                "interval_ns": 90 * 10**9,
                "timeout_ns": 1_500_000_000,
                "start_period_ns": 7200 * 10**9,
                "start_interval_ns": 5_000_000,
                "retries": 3,
            },
        ),
        ('HEALTHCHECK CMD ["a", "b"]', Healthcheck, {"test": ("CMD", "a", "b")}),
        ("ONBUILD  RUN a \\\n b", OnBuild, {"expression": "RUN a  b"}),
    ],
)
def test_an_instruction_is_read(text: str, kind: type[Instruction], expected: dict[str, object]) -> None:
    instruction = one(text)
    assert type(instruction) is kind
    assert {name: getattr(instruction, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("source", "message", "line"),
    [
        ("FORM x", "dockerfile parse error on line 1: unknown instruction: FORM (did you mean FROM?)", 1),
        ("FROM a\n\nzzzzz x", "dockerfile parse error on line 3: unknown instruction: zzzzz", 3),
        ("FROM a b", "dockerfile parse error on line 1: FROM requires either one or three arguments", 1),
        (
            "FROM a AS 1x",
            'dockerfile parse error on line 1: invalid name for build stage: "1x", '
            "name can't start with a number or contain symbols",
            1,
        ),
        ("FROM a\nCOPY --frm=x a b", "dockerfile parse error on line 2: unknown flag: --frm (did you mean --from?)", 2),
        ("FROM a\nCOPY --link=x a b", "expecting boolean value for flag --link, not: x", 2),
        ("FROM a\nCOPY --from=a --from=b a b", "duplicate flag specified: --from", 2),
        ("FROM a\nCOPY --from a b", "missing a value on flag: --from", 2),
        ("FROM a\nCOPY --link= a b", "missing a value on flag: --link", 2),
        ("FROM a\nUSER --x=1 a", "unknown flag: --x", 2),
        (
            "FROM a\nCOPY x",
            "COPY requires at least two arguments, but only one was provided. Destination could not be determined",
            2,
        ),
        ("FROM a\nCOPY a <<EOF\nx\nEOF", "COPY cannot accept a heredoc as a destination", 2),
        ("FROM a\nRUN <<EOF\nx", "dockerfile parse error on line 2: unterminated heredoc", 2),
        ("FROM a\nENV a", "dockerfile parse error on line 2: ENV must have two arguments", 2),
        ("FROM a\nENV a=1 b", 'Syntax error - can\'t find = in "b". Must be of the form: name=value', 2),
        ("FROM a\nENV =1", "ENV names can not be blank", 2),
        ("FROM a\nENV", "ENV requires at least one argument", 2),
        ("FROM a\nARG", "ARG requires at least one argument", 2),
        ("FROM a\nUSER", "USER requires exactly one argument", 2),
        ('FROM a\nCMD ["a", 1]', "when using JSON array syntax, arrays must be comprised of strings only", 2),
        ("FROM a\nSHELL x", "SHELL requires the arguments to be in JSON form", 2),
        ("FROM a\nONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger", 2),
        ("FROM a\nONBUILD ONBUILD RUN x", "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed", 2),
        ("FROM a\nHEALTHCHECK NONE x", "HEALTHCHECK NONE takes no arguments", 2),
        ("FROM a\nHEALTHCHECK x y", 'Unknown type "X" in HEALTHCHECK (try CMD)', 2),
        ("FROM a\nHEALTHCHECK --interval=1us CMD x", 'Interval "interval" cannot be less than 1ms', 2),
        ("FROM a\nHEALTHCHECK --interval=1 CMD x", 'time: missing unit in duration "1"', 2),
        ("FROM a\nHEALTHCHECK --retries=-1 CMD x", "--retries cannot be negative (-1)", 2),
        ("FROM a\nRUN --network=x y", 'invalid network mode "x"', 2),
        ("FROM a\nRUN --security=x y", 'security "x" is not valid', 2),
        (
            "FROM a\nRUN --mount=type=bind,from=$x,target=/y z",
            "'from' doesn't support variable expansion, define alias stage instead",
            2,
        ),
        ("# escape=x\nFROM a", "invalid escape token 'x' does not match ` or \\", 1),
        ("# syntax=a\n# syntax=b\nFROM a", "only one syntax parser directive can be used", 2),
        ("RUN x", "no build stage in current context", 1),
        ("ARG x", "dockerfile contains no stages to build", 1),
        ("", "file with no instructions", 1),
        ("# only this\n\n", "file with no instructions", 1),
    ],
)
def test_mistakes_are_told_in_buildkits_words_with_their_line(source: str, message: str, line: int) -> None:
    with pytest.raises(DockerfileError) as caught:
        parse(source)
    assert str(caught.value).endswith(message)
    assert caught.value.location is not None
    assert caught.value.location.first_line == line


def test_the_excerpt_marks_the_lines_at_fault() -> None:
    source = "FROM a\nRUN b\nRUN c\nCOPY \\\n  x\nRUN d\nRUN e\n"
    assert excerpt(source, Location(4, 5)) == (
        "Dockerfile:4\n"
        "--------------------\n"
        "   3 |     RUN c\n"
        "   4 | >>> COPY \\\n"
        "   5 | >>>   x\n"
        "   6 |     RUN d\n"
        "--------------------"
    )


def test_the_excerpt_of_a_single_line_is_wider_and_shows_the_end_of_the_file() -> None:
    assert excerpt("FROM a\nRUN b\nRUN c\nCOPY d\n", Location(4, 4), "x/Dockerfile") == (
        "x/Dockerfile:4\n"
        "--------------------\n"
        "   2 |     RUN b\n"
        "   3 |     RUN c\n"
        "   4 | >>> COPY d\n"
        "   5 |     \n"
        "--------------------"
    )


def test_stages_global_args_and_directives() -> None:
    dockerfile = parse(
        "\ufeff# syntax = docker/dockerfile:1\r\n# escape=`\r\n# check=skip=all;error=true\r\nARG V=1\r\n\r\n"
        "# base holds the tools\r\nFROM --platform=$BUILDPLATFORM alpine:${V} as Base\r\nRUN a `\r\n b\r\nFROM base\r\n"
    )
    assert dockerfile.directives == Directives("docker/dockerfile:1", "`", "skip=all;error=true")
    assert [arg.pairs for arg in dockerfile.global_args] == [(ArgPair("V", "1"),)]
    first, second = dockerfile.stages
    assert (first.name, first.base, first.platform) == ("base", "alpine:${V}", "$BUILDPLATFORM")
    assert (first.comment, first.location) == ("holds the tools", Location(7, 7))
    assert (second.index, second.name, second.base, second.label) == (1, "", "base", "stage-1")
    (run,) = first.instructions
    assert isinstance(run, Run)
    assert (run.command, run.location) == (("a  b",), Location(8, 9))


def test_a_directive_counts_only_at_the_top() -> None:
    assert parse("# a comment\n# escape=`\nFROM a").directives.escape == "\\"
    assert parse("\n# escape=`\nFROM a").directives.escape == "\\"


def test_continuations_skip_comments_and_blank_lines() -> None:
    run = one("RUN a \\\n# comment\n\n  b \\  \n   # indented\n  c # no comment\n")
    assert isinstance(run, Run)
    assert run.command == ("a   b   c # no comment",)
    assert one("RUN a \\\\\n").text == "RUN a \\\\"


def test_heredocs_of_run() -> None:
    run = one("RUN <<EOF\necho a \\\n# kept\n\nEOF\n")
    assert isinstance(run, Run)
    assert run_script(run).text == "echo a \\\n# kept\n\n"
    assert not run_script(run).interpreted
    assert run.location == Location(2, 6)

    script = one('RUN <<-"EOF"\n\t#!/usr/bin/python3\n\tprint(1)\n\tEOF')
    assert isinstance(script, Run)
    assert not script.heredocs[0].expand
    assert script.heredocs[0].content == "#!/usr/bin/python3\nprint(1)\n"

    spaced = one("RUN cat << EOF\nx\nEOF")
    assert isinstance(spaced, Run)
    assert spaced.heredocs[0].content == "x\n"

    several = one("RUN cat <<A <<'B' > x && \\\n true\na\nA\nb $x\nB")
    assert isinstance(several, Run)
    assert [(doc.name, doc.content, doc.expand) for doc in several.heredocs] == [
        ("A", "a\n", True),
        ("B", "b $x\n", False),
    ]
    assert run_script(several).text == "cat <<A <<'B' > x &&  true\na\nA\nb $x\nB"


@pytest.mark.parametrize("line", ["RUN cat <<< word", "RUN echo $((1 << 3))", 'RUN ["a", "<<EOF"]', 'RUN "a <<b'])
def test_what_is_no_heredoc(line: str) -> None:
    run = one(line)
    assert isinstance(run, Run)
    assert not run.heredocs


def test_an_interpreter_line_makes_the_heredoc_a_file_of_its_own() -> None:
    run = one("RUN <<EOF\n#!/bin/sh -e\ntrue\nEOF")
    assert isinstance(run, Run)
    assert (run_script(run).interpreted, run_script(run).name) == (True, "EOF")


def test_heredocs_of_copy_are_files() -> None:
    copy = one("COPY <<a.txt x <<-'b' /to/\n$v\na.txt\n\tkept\n\tb\n")
    assert isinstance(copy, Copy)
    assert copy.sources == ("x",)
    assert [(doc.name, doc.content, doc.expand) for doc in copy.heredocs] == [
        ("a.txt", "$v\n", True),
        ("b", "kept\n", False),
    ]


def test_onbuild_keeps_its_heredoc_and_is_parsed_later() -> None:
    onbuild = one("ONBUILD COPY <<EOF /x\nhi\nEOF")
    assert isinstance(onbuild, OnBuild)
    trigger = parse_onbuild(onbuild.expression, onbuild)
    assert isinstance(trigger, Copy)
    assert trigger.heredocs[0].content == "hi\n"
    assert trigger.location == onbuild.location
    with pytest.raises(DockerfileError, match="isn't allowed as an ONBUILD trigger"):
        parse_onbuild("FROM x", onbuild)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("target=/a", RunMount("bind", "/a", read_only=True)),
        ("type=cache,dst=/a,sharing=locked,id=$I", RunMount("cache", "/a", sharing="locked", id="v")),
        ("type=tmpfs,target=/a,size=1.5k", RunMount("tmpfs", "/a", size_bytes=1536)),
        ("type=secret,id=k,env=K,required", RunMount("secret", "", id="k", env="K", required=True, read_only=True)),
        ("type=ssh,mode=0600,uid=1,gid=2", RunMount("ssh", "", mode=0o600, uid=1, gid=2, read_only=True)),
        ('type=bind,"source=a,b",target=/t,rw', RunMount("bind", "/t", source="a,b")),
        ("type=bind,from=stage,src=/s,target=/t,ro=false", RunMount("bind", "/t", source="/s", from_="stage")),
    ],
)
def test_a_mount_is_read(text: str, expected: RunMount) -> None:
    assert mounts.parse_mount(text, lambda word: word.replace("$I", "v")) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("type=bnd,target=/a", 'unsupported mount type "bnd" (did you mean bind?)'),
        ("type=cache,target=/a,sharing=x", 'unsupported sharing value "x"'),
        ("tarfet=/a", "unexpected key 'tarfet' in 'tarfet=/a' (did you mean target?)"),
        ("x", "invalid field 'x' must be a key=value pair"),
        ("target=/a,required", "unexpected key 'required' for mount type 'bind'"),
        ("target=/a,mode=1", 'mode not allowed for "bind" type mounts'),
        ("type=cache,target=/a,mode=9", "invalid value 9 for mode"),
        ("type=secret", "invalid secret mount. one of source, target required"),
        ("type=secret,id=a,from=b", "secret mount should not have a from"),
        ("target=/a,sharing=shared", "invalid cache sharing set for bind mount"),
        ("target=/a,ro=x", "invalid value for ro: x"),
        ('"target=/a', 'failed to parse csv mounts: extraneous or missing " in quoted-field'),
    ],
)
def test_a_wrong_mount_is_refused(text: str, message: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        mounts.parse_mount(text)
    assert str(caught.value) == message


_KEYWORDS = st.sampled_from(
    [
        "FROM",
        "RUN",
        "copy",
        "ADD",
        "ENV",
        "ARG",
        "LABEL",
        "CMD",
        "HEALTHCHECK",
        "ONBUILD",
        "VOLUME",
        "EXPOSE",
        "# x=",
        "#",
    ]
)
_REST = st.text(st.sampled_from([*string.ascii_letters, *"$\\{}[]\"'<->=,:/ \t`#%\x00é\r\n\u2028\ud800"]), max_size=40)


@settings(max_examples=50)
@given(st.lists(st.tuples(_KEYWORDS, _REST), max_size=6))
def test_the_parser_only_ever_raises_its_own_error_with_a_line(parts: list[tuple[str, str]]) -> None:
    source = "\n".join(f"{keyword} {rest}" for keyword, rest in parts)
    try:
        parse(source)
    except DockerfileError as error:
        assert error.location is not None
        assert 1 <= error.location.first_line <= max(1, source.count("\n") + 1)
        excerpt(source, error.location)


@settings(max_examples=50)
@given(st.binary(max_size=200))
def test_bytes_are_read_or_refused(source: bytes) -> None:
    try:
        parse(source)
    except DockerfileError as error:
        assert error.location is not None


@settings(max_examples=50)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\\\r\n"), max_size=60))
def test_a_shell_command_is_kept_to_the_letter(command: str) -> None:
    stripped = command.strip()
    if not stripped or stripped.startswith(("[", "-", "#")) or "<<" in stripped:
        return
    run = one(f"RUN {stripped}")
    assert isinstance(run, Run)
    assert run.command == (stripped,)
