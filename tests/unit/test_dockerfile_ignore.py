"""Ignore files, against a slow matcher that follows the documentation word by word."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.dockerfile.ignore import Matcher, file_names, parse_file
from runtime.errors import InvalidParameter

FILE = """# comment
 # a pattern, for the line does not begin with it

/node_modules/
**/*.log
!keep.log
*/temp*
temp?
./sub//x/../**
! sub/a/*.txt
[a-c]1
\\#real
!
"""


def test_an_ignore_file_is_cleaned() -> None:
    assert parse_file(FILE) == [
        "# a pattern, for the line does not begin with it",
        "node_modules",
        "**/*.log",
        "!keep.log",
        "*/temp*",
        "temp?",
        "sub/**",
        "!sub/a/*.txt",
        "[a-c]1",
        "\\#real",
        "!",
    ]
    assert file_names("docker/Dockerfile") == ("docker/Dockerfile.dockerignore", ".dockerignore")


@pytest.mark.parametrize(
    ("path", "ignored"),
    [
        ("node_modules/a/b", True),
        ("x/node_modules", False),
        ("a.log", True),
        ("x/y/a.log", True),
        ("keep.log", False),
        ("x/keep.log", True),
        ("x/temporary/y", True),
        ("x/y/temp", False),
        ("temp1", True),
        ("temp", False),
        ("sub", False),
        ("sub/x", True),
        ("sub/a/b.txt", False),
        ("sub/a/b.md", True),
        ("b1", True),
        ("d1", False),
        ("#real", True),
        (".", False),
    ],
)
def test_the_documented_examples(path: str, ignored: bool) -> None:
    assert Matcher(parse_file(FILE)[:-1]).ignores(path) is ignored


@pytest.mark.parametrize(
    ("patterns", "directory", "skipped"),
    [
        (["a"], "a", True),
        (["a"], "b", False),
        (["*", "!a/b"], "a", False),
        (["*", "!a/b"], "c", True),
        (["*", "!a/b"], "a/c", True),
        (["*", "!a/b"], "a/b", False),
        (["*", "!*/x.txt"], "a", False),
        (["*", "!*/x.txt"], "a/b", True),
        (["*", "!**/x"], "a/b", False),
        (["!a/b", "a"], "a", True),
    ],
)
def test_directories_nobody_need_look_into(patterns: list[str], directory: str, skipped: bool) -> None:
    assert Matcher(patterns).skips(directory) is skipped


@pytest.mark.parametrize("pattern", ["!", "[", "[a", "[]a]", "[a-]", "a\\", "[z-a]"])
def test_a_pattern_that_is_none_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidParameter):
        Matcher([pattern])


def reference_ignores(patterns: list[str], path: str) -> bool:
    parts = path.split("/")
    ancestors = ["/".join(parts[:length]) for length in range(1, len(parts) + 1)]
    ignored = False
    for pattern in patterns:
        exception = pattern.startswith("!")
        if any(reference_matches(pattern.removeprefix("!"), one) for one in ancestors):
            ignored = not exception
    return ignored


def reference_matches(pattern: str, path: str) -> bool:
    if not pattern:
        return not path
    if pattern == "**":
        return True
    if pattern.startswith("**/"):
        starts = [0, *(at + 1 for at, char in enumerate(path) if char == "/")]
        return any(reference_matches(pattern[3:], path[at:]) for at in starts)
    if pattern[0] == "*":
        end = path.find("/") if "/" in path else len(path)
        return any(reference_matches(pattern[1:], path[at:]) for at in range(end + 1))
    if not path:
        return False
    if pattern[0] == "?":
        return path[0] != "/" and reference_matches(pattern[1:], path[1:])
    return pattern[0] == path[0] and reference_matches(pattern[1:], path[1:])


COMPONENTS = st.one_of(st.text("ab.*?", min_size=1, max_size=3).filter(lambda t: "**" not in t and t.strip(".")))
PATTERNS = st.builds(
    "{}{}".format,
    st.sampled_from(["", "", "!"]),
    st.lists(st.one_of(COMPONENTS, st.just("**")), min_size=1, max_size=3).map("/".join),
)
NAMES = st.text("ab.", min_size=1, max_size=3).filter(lambda name: name.strip("."))
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)


@settings(max_examples=40)
@given(st.lists(PATTERNS, max_size=5), st.lists(PATHS, min_size=1, max_size=8))
def test_matching_equals_the_slow_reference(patterns: list[str], paths: list[str]) -> None:
    matcher = Matcher(patterns)
    for path in paths:
        assert matcher.ignores(path) is reference_ignores(patterns, path), (patterns, path)


@settings(max_examples=40)
@given(st.lists(PATTERNS, max_size=5), PATHS, PATHS)
def test_nothing_below_a_skipped_directory_is_wanted(patterns: list[str], directory: str, below: str) -> None:
    matcher = Matcher(patterns)
    if matcher.skips(directory):
        assert matcher.ignores(f"{directory}/{below}")


@settings(max_examples=40)
@given(st.lists(st.text(max_size=8), max_size=4), st.text(max_size=8))
def test_any_text_is_a_pattern_or_refused(patterns: list[str], path: str) -> None:
    try:
        Matcher(patterns).skips(path)
    except InvalidParameter:
        pass
