"""Git repositories as a build names them: `https://host/x.git#ref:directory`, `git@host:x`, `github.com/x/y`.

Source: docs.docker.com/build/concepts/context, "Git repositories" and "URL queries".
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from runtime.errors import InvalidParameter

_SCP = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]*@[a-zA-Z0-9.-]+:.*", re.DOTALL)
_SCHEMES = ("http://", "https://", "ssh://", "git://")
_BOOLEANS = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}


@dataclass(frozen=True, slots=True)
class GitReference:
    """`remote` is what git fetches from; `ref` a branch, tag or commit ("" is the default branch).

    `directory` is below the repository's top, "" the whole. `checksum` is the commit `ref` must be, or a beginning
    of it. None for `keep_git_dir` and `submodules` means: not said.
    """

    remote: str
    ref: str = ""
    directory: str = ""
    checksum: str = ""
    keep_git_dir: bool | None = None
    submodules: bool | None = None


def parse(text: str, *, context: bool = False) -> GitReference | None:
    """What `text` names, None when it is no git repository. Raises InvalidParameter for wrong queries.

    `context`: `github.com/x/y` is meant as a repository, which among files it is not.
    """
    if text.startswith(("./", "../")):
        return None
    if text.startswith("github.com/"):
        if not context:
            return None
        text = f"https://{text}"
        return _of_url(text)
    if text.startswith(_SCHEMES):
        is_http = text.startswith("http")
        path = re.split(r"[?#]", text, maxsplit=1)[0]
        return _of_url(text) if not is_http or path.endswith(".git") else None
    if _SCP.fullmatch(text):
        remote, _, fragment = text.partition("#")
        remote, _, query = remote.partition("?")
        return _with_query(remote, fragment, query)
    return None


def _of_url(text: str) -> GitReference:
    try:
        url = urlsplit(text)
    except ValueError as error:
        raise InvalidParameter(f"invalid git reference {text!r}: {error}") from error
    return _with_query(url._replace(query="", fragment="").geturl(), url.fragment, url.query)


def _with_query(remote: str, fragment: str, query: str) -> GitReference:
    ref, _, directory = fragment.partition(":")
    values = parse_qs(query, keep_blank_values=True)
    wanted = _Query(ref, directory)
    wanted.read(values)
    checksum = wanted.checksum
    return GitReference(
        remote, wanted.ref or checksum, wanted.directory, checksum, wanted.keep_git_dir, wanted.submodules
    )


@dataclass(slots=True)
class _Query:
    ref: str
    directory: str
    checksum: str = ""
    keep_git_dir: bool | None = None
    submodules: bool | None = None

    def read(self, values: Mapping[str, list[str]]) -> None:
        for name, given in values.items():
            if len(given) > 1:
                raise InvalidParameter(f'query "{name}" has multiple values')
            self._one(name, given[0])
        if "tag" in values and "branch" in values:
            raise InvalidParameter("branch conflicts with tag")

    def _one(self, name: str, value: str) -> None:
        if name in ("keep-git-dir", "submodules"):
            flag = _BOOLEANS.get(value.lower()) if value else True
            if flag is None:
                raise InvalidParameter(f'invalid {name} value: "{value}"')
            if name == "submodules":
                self.submodules = flag
            else:
                self.keep_git_dir = flag
            return
        if name not in ("ref", "tag", "branch", "subdir", "checksum", "commit"):
            raise InvalidParameter(f'unexpected query "{name}"')
        if not value:
            raise InvalidParameter(f'query "{name}" has no value')
        if name == "subdir":
            if self.directory not in ("", value):
                raise InvalidParameter(f'subdir conflicts: "{self.directory}" vs "{value}"')
            self.directory = value
        elif name in ("checksum", "commit"):
            self.checksum = value
        else:
            prefix = {"tag": "refs/tags/", "branch": "refs/heads/"}.get(name, "")
            value = value if value.startswith(prefix) else prefix + value
            if self.ref not in ("", value):
                raise InvalidParameter(f'ref conflicts: "{self.ref}" vs "{value}"')
            self.ref = value
