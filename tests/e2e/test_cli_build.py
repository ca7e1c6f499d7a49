"""`wherry build` as people run it."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

from tests.e2e.conftest import Wherry


def test_an_image_from_a_directory(wherry: Wherry, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox\nARG who\nCOPY . /files\nRUN --mount=type=secret,id=key,required cp /run/secrets/key /shown\n"
        "RUN echo $who > /who\n"
    )
    (tmp_path / ".dockerignore").write_text("ignored\n**/*.log\n!keep.log\nDockerfile\n.dockerignore\nkey\n")
    (tmp_path / "key").write_text("a secret")
    for name in ("ignored/x", "sub/y", "a.log", "keep.log"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    built = wherry(
        *("build", "-t", "cli-built", "--build-arg", "who=me", "--secret", f"id=key,src={tmp_path / 'key'}"),
        *("--iidfile", str(tmp_path / "key.iid"), "--metadata-file", str(tmp_path / "key.json"), str(tmp_path)),
    )
    assert built.returncode == 0, built.stderr
    assert "Step 2/5 : ARG who" in built.stdout
    found = wherry("run", "--rm", "cli-built", "sh", "-c", "cd /files; find . -type f | sort; cat /shown /who")
    assert found.stdout == "./keep.log\n./sub/y\na secretme\n"
    image_id = (tmp_path / "key.iid").read_text()
    assert json.loads((tmp_path / "key.json").read_text())["containerimage.config.digest"] == image_id
    quiet = wherry("build", "-q", "--build-arg", "who=me", "--secret", f"id=key,src={tmp_path / 'key'}", str(tmp_path))
    assert quiet.returncode == 0, quiet.stderr


def test_files_instead_of_an_image(wherry: Wherry, tmp_path: Path) -> None:
    text = "FROM busybox AS made\nRUN echo hello > /out.txt\nFROM scratch\nCOPY --from=made /out.txt /\n"
    done = wherry("build", "-o", str(tmp_path / "out"), "-", stdin=text.encode())
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/out.txt").read_text() == "hello\n"
    done = wherry("build", "-o", f"type=tar,dest={tmp_path / 'out.tar'}", "-", stdin=text.encode())
    assert done.returncode == 0, done.stderr
    with tarfile.open(tmp_path / "out.tar") as archive:
        assert "out.txt" in archive.getnames()
    assert wherry("ps", "-aq").stdout == ""


def test_a_build_that_fails(wherry: Wherry, tmp_path: Path) -> None:
    failed = wherry("build", "-", stdin=b"FROM busybox\nRUN echo said; exit 5\n")
    assert failed.returncode == 1
    assert "said" in failed.stdout
    assert "returned a non-zero code: 5" in failed.stderr
    assert wherry("build", str(tmp_path / "nothing")).returncode == 1


def test_the_cache_is_emptied(wherry: Wherry) -> None:
    assert wherry("build", "-", stdin=b"FROM busybox\nRUN echo x > /x\n").returncode == 0
    pruned = wherry("builder", "prune", "-a", "-f")
    assert pruned.returncode == 0, pruned.stderr
    assert "Total reclaimed space" in pruned.stdout


def test_a_dockerfile_is_checked(wherry: Wherry) -> None:
    found = wherry("build", "--check", "-", stdin=b"FROM busybox as made\nMAINTAINER me\n")
    assert found.returncode == 1
    assert "FromAsCasing" in found.stdout and "MaintainerDeprecated" in found.stdout
    clean = wherry("build", "--check", "-", stdin=b"FROM busybox\nRUN true\n")
    assert (clean.returncode, clean.stdout) == (0, "Check complete, no warnings found.\n")
