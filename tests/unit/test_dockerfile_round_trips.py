"""A Dockerfile means the same however it is laid out; and hostile ones are refused in a sentence, and soon."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.dockerfile.errors import DockerfileError, excerpt
from runtime.dockerfile.expansion import expand
from runtime.dockerfile.model import Env, Instruction
from runtime.dockerfile.parser import parse
from runtime.dockerfile.stages import plan

WORD = st.text("abcXYZ019/._-$", min_size=1, max_size=8).filter(lambda word: not word.startswith(("-", "#")))
NAME = st.text("abcXYZ", min_size=1, max_size=5)
LINES = st.one_of(
    st.lists(WORD, min_size=1, max_size=5).map(lambda words: ["RUN", *words]),
    st.lists(WORD, min_size=2, max_size=4).map(lambda words: ["COPY", "--chown=1:2", *words]),
    st.lists(WORD, min_size=2, max_size=4).map(lambda words: ["ADD", *words]),
    st.lists(st.tuples(NAME, WORD), min_size=1, max_size=3).map(lambda pairs: ["ENV", *map("=".join, pairs)]),
    st.lists(st.tuples(NAME, WORD), min_size=1, max_size=3).map(lambda pairs: ["LABEL", *map("=".join, pairs)]),
    st.lists(NAME, min_size=1, max_size=3).map(lambda names: ["ARG", *names]),
    st.tuples(WORD).map(lambda words: ["WORKDIR", *words]),
    st.tuples(WORD).map(lambda words: ["USER", *words]),
    st.lists(WORD, min_size=1, max_size=3).map(lambda words: ["ENTRYPOINT", *words]),
)


@st.composite
def laid_out(draw: st.DrawFn, instructions: list[list[str]]) -> str:
    """The same instructions: other letter case, lines cut between words, comments, blank lines, CRLF, a BOM."""
    end = draw(st.sampled_from(["\n", "\r\n"]))
    parts = [draw(st.sampled_from(["", "\ufeff"])), draw(st.sampled_from(["", f"# syntax=docker/dockerfile:1{end}"]))]
    for keyword, *words in [["FROM", "scratch"], *instructions]:
        parts.append(draw(st.sampled_from(["", "  ", f"# a comment{end}", end, f"{end}# one \\{end}"])))
        parts.append(draw(st.sampled_from([keyword, keyword.lower(), keyword.title()])))
        for word in words:
            cut = draw(st.sampled_from(["", f"\\{end}", f"\\ {end}# between{end}", f"\\{end}{end}"]))
            parts += [cut and f" {cut}" if keyword not in ("RUN", "ENTRYPOINT") else cut, " ", word]
        parts.append(end)
    return "".join(parts)


def meaning(instruction: Instruction) -> tuple[object, ...]:
    values = (
        getattr(instruction, field.name) for field in fields(instruction) if field.name not in ("location", "text")
    )
    return type(instruction).__name__, *values


@settings(max_examples=60)
@given(st.data(), st.lists(LINES, max_size=5))
def test_layout_has_no_meaning(data: st.DataObject, instructions: list[list[str]]) -> None:
    plain = "FROM scratch\n" + "".join(" ".join(words) + "\n" for words in instructions)
    other = data.draw(laid_out(instructions))
    found = parse(other.encode()).stages[0]
    assert [*map(meaning, found.instructions)] == [*map(meaning, parse(plain).stages[0].instructions)]
    lines = other.removeprefix("\ufeff").split("\n")
    for instruction, (keyword, *_) in zip(found.instructions, instructions, strict=True):
        assert lines[instruction.location.first_line - 1].strip().upper().startswith(keyword)


MEGABYTE = 1 << 20


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("RUN true\n", "no build stage in current context"),
        ("ARG a=1\n", "dockerfile contains no stages to build"),
        ("# nothing\n", "file with no instructions"),
        ("FROM a\nFORM b\n", "dockerfile parse error on line 2: unknown instruction: FORM (did you mean FROM?)"),
        ("FROM a\nR\0UN x\n", "unknown instruction: R\0UN"),
        ("FROM x AS a\nCOPY --from=a / /\n", "circular dependency detected on stage: a"),
        (
            "FROM x AS a\nCOPY --from=b / /\nFROM x AS b\nCOPY --from=a / /\n",
            "circular dependency detected on stage: a",
        ),
        ("FROM x\nCOPY --from=7 / /\n", "invalid stage index 7"),
        ("FROM a\nRUN <<END\nx\n", "dockerfile parse error on line 2: unterminated heredoc"),
        ("FROM a\n" + "x" * MEGABYTE, "unknown instruction: xxx"),
        ("FROM a\nRUN " + "<<a " * 1000, "unterminated heredoc"),
        ("# escape=" + " " * MEGABYTE + "x\nFROM a\n", "invalid escape token 'x'"),
        ("".join(f"FROM x AS s{i}\nCOPY --from=s{(i + 1) % 999} / /\n" for i in range(999)), "circular dependency"),
    ],
)
def test_what_is_refused(source: str, expected: str) -> None:
    with pytest.raises(DockerfileError) as refused:
        plan(parse(source))
    assert expected in str(refused.value)
    assert len(str(refused.value)) < 5000
    assert refused.value.location is not None
    shown = excerpt(source, refused.value.location)
    assert ">>>" in shown and len(shown) < 10_000


@pytest.mark.parametrize(
    "source",
    [
        "FROM a\nRUN " + "x" * MEGABYTE,
        "FROM a\nRUN x" + " " * MEGABYTE + "\\\ny",
        "FROM a\nRUN " + "\\" * MEGABYTE,
        "FROM a\nRUN " + "[" * MEGABYTE,
        "FROM a\nRUN x \\\n" + "# c\n" * (MEGABYTE // 16) + "y",
        "FROM a\nRUN a\0b\n",
        "\ufeffFROM a\r\nRUN a \\\r\n b\r\n",
    ],
)
def test_what_is_large_or_odd_is_read(source: str) -> None:
    assert len(parse(source.encode()).stages[0].instructions) == 1


def test_thousands_of_stages() -> None:
    """Names are looked up, not searched for."""
    chain = "FROM x AS s0\n" + "".join(f"FROM s{i} AS s{i + 1}\nCOPY --from=S{i} / /\n" for i in range(2000))
    steps = plan(parse(chain))
    assert [planned.needs for planned in steps.stages][1:] == [(index,) for index in range(2000)]


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=20)


@given(
    name=st.text("ABC_.", min_size=1, max_size=4),
    quote=st.sampled_from(["", "'", '"']),
    strips=st.booleans(),
    lines=st.lists(TEXT, max_size=4),
    instruction=st.sampled_from(["RUN {}", "RUN cat {} > /x", "COPY {} /x", "ADD --chown=1 {} /x/"]),
)
def test_here_documents_are_kept_to_the_letter(
    name: str, quote: str, strips: bool, lines: list[str], instruction: str
) -> None:
    lines = [line for line in lines if line.lstrip("\t") != name]
    opened = instruction.format(f"<<{'-' if strips else ''}{quote}{name}{quote}")
    end = f"\t{name}" if strips else name
    source = "\n".join(["FROM a", opened, *lines, end, "USER after"])
    first, after = parse(source).stages[0].instructions
    (found,) = first.heredocs  # type: ignore[union-attr]
    assert (found.name, found.expand) == (name, not quote)
    assert found.content == "".join(f"{line.lstrip(chr(9)) if strips else line}\n" for line in lines)
    assert after.user == "after"  # type: ignore[union-attr]
    assert after.location.first_line == len(lines) + 4


@given(st.lists(st.text(st.characters(codec="utf-8")), min_size=1, max_size=4), st.booleans())
def test_arrays_are_read_as_json(words: list[str], as_ascii: bool) -> None:
    array = json.dumps(words, ensure_ascii=as_ascii)
    for name in ("RUN", "CMD", "ENTRYPOINT", "SHELL"):
        (found,) = parse(f"FROM a\n{name} {array}\n").stages[0].instructions
        assert found.command == tuple(words)  # type: ignore[union-attr]
        assert name == "SHELL" or not found.shell_form  # type: ignore[union-attr]


@given(TEXT)
def test_quotes_keep_what_is_in_them(text: str) -> None:
    quoted = text.translate({ord(char): f"\\{char}" for char in '\\"$'})
    source = f"FROM a\nENV a='{text.replace(chr(39), '')}' b=\"{quoted}\"\n"
    (found,) = parse(source).stages[0].instructions
    assert isinstance(found, Env)
    values = [expand(pair.value, {}) for pair in found.pairs]
    assert values == [text.replace("'", ""), text]
