"""Docker's reference grammar: known names, known refusals, and properties that hold for all of them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import InvalidParameter
from runtime.oci import digest
from runtime.oci.reference import Reference, parse, parse_name

SHA = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("text", "canonical", "familiar"),
    [
        ("alpine", "docker.io/library/alpine:latest", "alpine:latest"),
        ("alpine:3.20", "docker.io/library/alpine:3.20", "alpine:3.20"),
        ("user/app", "docker.io/user/app:latest", "user/app:latest"),
        ("docker.io/alpine", "docker.io/library/alpine:latest", "alpine:latest"),
        ("index.docker.io/library/alpine:1", "docker.io/library/alpine:1", "alpine:1"),
        ("library/a/b:1", "docker.io/library/a/b:1", "library/a/b:1"),
        ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
        ("localhost:5000/app:v1", "localhost:5000/app:v1", "localhost:5000/app:v1"),
        ("[::1]:5000/app", "[::1]:5000/app:latest", "[::1]:5000/app:latest"),
        ("HOST/app", "HOST/app:latest", "HOST/app:latest"),
        ("ghcr.io/a/b__c/d--e:V_1.0", "ghcr.io/a/b__c/d--e:V_1.0", "ghcr.io/a/b__c/d--e:V_1.0"),
        (f"alpine@{SHA}", f"docker.io/library/alpine@{SHA}", f"alpine@{SHA}"),
        (f"alpine:3@{SHA}", f"docker.io/library/alpine:3@{SHA}", f"alpine:3@{SHA}"),
    ],
)
def test_names_are_completed_and_shortened_as_docker_does(text: str, canonical: str, familiar: str) -> None:
    reference = parse(text)
    assert str(reference) == canonical
    assert reference.familiar() == familiar


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "invalid reference format"),
        ("Alpine", "invalid reference format: repository name (library/Alpine) must be lowercase"),
        ("ghcr.io/Owner/app:1", "invalid reference format: repository name (Owner/app) must be lowercase"),
        ("a" * 64, "cannot specify 64-byte hexadecimal strings"),
        (":tag", "invalid reference format"),
        ("alpine:", "invalid reference format"),
        ("alpine:-x", "invalid reference format"),
        ("alpine:" + "t" * 129, "invalid reference format"),
        ("a//b", "invalid reference format"),
        ("a/b/", "invalid reference format"),
        ("-a", "invalid reference format"),
        ("a..b", "invalid reference format"),
        ("a___b", "invalid reference format"),
        ("alpine tag", "invalid reference format"),
        ("alpine\n", "invalid reference format"),
        ("alpine@sha256:abc", "invalid reference format"),
        ("alpine@sha256:" + "a" * 63, "invalid checksum digest"),
        ("alpine@sha256:" + "A" * 64, "invalid checksum digest"),
        ("alpine@md5:" + "a" * 32, "unsupported digest algorithm"),
        ("../../etc/passwd", "invalid reference format"),
        ("/" + "x", "invalid reference format"),
        ("x/" * 130 + "y", "must not be more than 255 characters"),
    ],
)
def test_refusals_carry_dockers_sentence(text: str, sentence: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        parse(text)
    assert sentence in str(caught.value)


def test_a_bare_name_is_told_apart_from_a_tagged_one() -> None:
    assert parse_name("alpine") == Reference("docker.io", "library/alpine")
    assert parse_name("alpine").with_default_tag() == parse("alpine")


_WORD = st.text("abz019", min_size=1, max_size=6)
_COMPONENT = st.builds("{}{}{}".format, _WORD, st.sampled_from([".", "_", "__", "-", "---", ""]), _WORD)
_DOMAIN = st.builds(
    "{}{}{}".format, _WORD, st.sampled_from([".io", ".example.com", ""]), st.sampled_from([":5000", ".de"])
)
_TAG = st.builds(str.__add__, st.sampled_from("aZ9_"), st.text("aZ9_.-", max_size=20))
_REFERENCES = st.builds(
    lambda domain, path, tag, sha: Reference(domain, "/".join(path), tag, sha),
    _DOMAIN | st.just("localhost"),
    st.lists(_COMPONENT, min_size=1, max_size=4),
    st.none() | _TAG,
    st.none() | st.binary(max_size=4).map(digest.of_bytes),
)


@given(_REFERENCES)
@settings(max_examples=40)
def test_canonical_and_familiar_texts_mean_the_same_reference(reference: Reference) -> None:
    assert parse_name(str(reference)) == reference
    assert parse_name(reference.familiar()) == reference


@given(st.text(max_size=40))
@settings(max_examples=100)
def test_any_text_is_a_reference_that_survives_or_is_refused(text: str) -> None:
    try:
        reference = parse(text)
    except InvalidParameter:
        return
    assert parse(str(reference)) == reference
    assert parse(reference.familiar()) == reference
    assert ".." not in reference.path


def test_chain_ids_follow_the_specification() -> None:
    first, second = digest.of_bytes(b"1"), digest.of_bytes(b"2")
    assert digest.chain_ids([]) == ()
    assert digest.chain_ids([first, second]) == (first, digest.of_bytes(f"{first} {second}".encode()))


@pytest.mark.parametrize("text", ["", "sha256:", "sha256:../../x", "sha256:" + "A" * 64, "sha512:" + "a" * 128])
def test_what_is_no_digest_never_becomes_a_file_name(text: str) -> None:
    assert not digest.is_digest(text)
    with pytest.raises(InvalidParameter):
        digest.hex_of(text)
