"""Variables in a Dockerfile's words, beside what /bin/sh makes of them."""

import os
import re
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.dockerfile import globs
from runtime.dockerfile.errors import DockerfileError
from runtime.dockerfile.expansion import expand, expand_heredoc, expand_words, expanded

ENV = {"v": "foobarbaz", "e": "", "s": "a b", "p": "/usr/lib/x.tar.gz", "HOME": "/root"}


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("$v", "foobarbaz"),
        ("${v}x", "foobarbazx"),
        ("$vx", ""),
        ("\\$v", "$v"),
        ("'$v'", "$v"),
        ('"$v"', "foobarbaz"),
        ('"\\$v \\" \\n"', '$v " \\n'),
        ("a\\ b", "a b"),
        ("$", "$"),
        ("a$ b", "a$ b"),
        ("${e:-d}", "d"),
        ("${e-d}", ""),
        ("${n-d}", "d"),
        ("${n:-${v:+y}}", "y"),
        ("${e:+y}", ""),
        ("${e+y}", "y"),
        ("${n+y}", ""),
        ("${v:?no}", "foobarbaz"),
        ("${e?no}", ""),
        ("${v#*o}", "obarbaz"),
        ("${v##*o}", "barbaz"),
        ("${v%b*}", "foobar"),
        ("${v%%b*}", "foo"),
        ("${v#x}", "foobarbaz"),
        ("${p##*/}", "x.tar.gz"),
        ("${p%%.*}", "/usr/lib/x"),
        ("${v#f??}", "barbaz"),
        ("${v/b/X}", "fooXarbaz"),
        ("${v//b/X}", "fooXarXaz"),
        ("${v//o*b/_}", "f_az"),
        ("${v/b}", None),
        ("${p//\\//-}", "-usr-lib-x.tar.gz"),
        ("${v/x/y}", "foobarbaz"),
        ("$1$?", ""),
        ("${n:-'a b'}", "a b"),
    ],
)
def test_forms_of_substitution(word: str, expected: str | None) -> None:
    if expected is None:
        with pytest.raises(DockerfileError):
            expand(word, ENV)
    else:
        assert expand(word, ENV) == expected


def test_the_other_escape_character() -> None:
    assert expand("`$v\\", ENV, "`") == "$v\\"
    assert expand('"`"\\$e"', ENV, "`") == '"\\'


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("${x", "syntax error: missing '}'"),
        ("${", "syntax error: missing '}'"),
        ("${v:-a", "syntax error: missing '}'"),
        ("${v/a}", "syntax error: missing '/' in ${}"),
        ("${v/a/b", "syntax error: missing '}'"),
        ("${}", "syntax error: bad substitution"),
        ("${:x}", "syntax error: bad substitution"),
        ("${v^}", "unsupported modifier (^) in substitution"),
        ("${v:x}", "unsupported modifier (:x) in substitution"),
        ("${n:?is needed}", "n: is needed"),
        ("${n?}", "n: is not allowed to be unset"),
        ("${e:?}", "e: is not allowed to be empty"),
        ("'a", "unexpected end of statement while looking for matching single-quote"),
        ("${v#\\a}", "invalid pattern (\\a) in substitution: invalid escape '\\a'"),
        ("${a:-" * 60 + "}" * 60, "syntax error: substitutions are nested more than 50 deep"),
    ],
)
def test_errors_name_the_word(word: str, reason: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        expand(word, ENV)
    assert str(caught.value).startswith('failed to process "')
    assert str(caught.value).endswith(f": {reason}")


def test_the_whole_sentence() -> None:
    with pytest.raises(DockerfileError) as caught:
        expand("${x", {})
    assert str(caught.value) == "failed to process \"${x\": syntax error: missing '}'"


@pytest.mark.parametrize(
    ("word", "words"),
    [("$s c", ["a", "b", "c"]), ('"$s" c', ["a b", "c"]), ("a\\ b  c", ["a b", "c"]), ("", []), ("$e", [])],
)
def test_words_are_split_after_expansion(word: str, words: list[str]) -> None:
    assert expand_words(word, ENV) == words


def test_a_heredoc_keeps_its_quotes() -> None:
    assert expand_heredoc("a='$v' \"$e\" \\$v\n", ENV) == "a='foobarbaz' \"\" $v\n"


def test_variables_named_are_known() -> None:
    result = expanded("$v ${n:-$m}", ENV)
    assert (result.matched, result.unmatched) == ({"v"}, {"n", "m"})


NAMES = st.sampled_from(["v", "e", "n", "s", "p"])
PLAIN = st.text("abo/.x-", max_size=4)
PATTERNS = st.text("abo*?/.", max_size=4)
SIMPLE = st.one_of(
    PLAIN,
    NAMES.map(lambda name: f"${{{name}}}"),
    st.builds("${{{}{}{}}}".format, NAMES, st.sampled_from([":-", "-", ":+", "+"]), PLAIN),
    # a second # or % would be read as part of the operator
    st.builds("${{{}{}{}}}".format, NAMES, st.sampled_from(["#", "##", "%", "%%"]), PATTERNS),
)
NESTED = st.builds("${{{}{}{}}}".format, NAMES, st.sampled_from([":-", "-", ":+", "+"]), SIMPLE)
WORDS = st.lists(
    st.one_of(SIMPLE, NESTED, PLAIN.map(lambda text: f"'{text}'"), st.just("\\$v"), st.just('"\\""')), max_size=4
).map(lambda parts: '"' + '""'.join(part if "'" not in part else f'"{part}"' for part in parts) + '"')


@settings(max_examples=8)
@given(st.lists(WORDS, min_size=40, max_size=40))
def test_expansion_equals_the_shells(words: list[str]) -> None:
    """One shell answers many words, since starting it is what takes time."""
    script = "".join(f"printf '%s\\0' {word}\n" for word in words)
    result = subprocess.run(
        ["/bin/sh", "-c", script], capture_output=True, check=True, text=True, env={**ENV, "PATH": os.environ["PATH"]}
    )
    assert [expand(word, ENV) for word in words] == result.stdout.split("\0")[:-1]


@settings(max_examples=50)
@given(st.text("ab", max_size=8), st.text("ab?*", max_size=5), st.booleans())
def test_prefixes_are_those_a_regular_expression_finds(value: str, pattern: str, longest: bool) -> None:
    regex = re.compile("".join(".*" if char == "*" else "." if char == "?" else char for char in pattern))
    ends = [end for end in range(len(value) + 1) if regex.fullmatch(value, 0, end)]
    expected = value[(max if longest else min)(ends) :] if ends else value
    assert globs.without_prefix(value, globs.tokens(pattern), longest) == expected


@settings(max_examples=50)
@given(st.text())
def test_expansion_only_ever_raises_its_own_error(word: str) -> None:
    for escape in "\\`":
        try:
            expand(word, ENV, escape)
        except DockerfileError as error:
            assert "failed to process" in str(error)


def test_a_hostile_pattern_takes_no_long_time() -> None:
    assert expand("${v#" + "*a" * 40 + "*b}", {"v": "a" * 2000}) == "a" * 2000
