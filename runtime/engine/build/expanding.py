"""Instructions with their variables replaced, by the table of the Dockerfile's model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from runtime.dockerfile.expansion import expand, expand_heredoc, expand_words
from runtime.dockerfile.model import EXPANDED_FIELDS, Expansion, Heredoc, KeyValue

Instruction = TypeVar("Instruction")


def expanded(instruction: Instruction, variables: Mapping[str, str], escape: str) -> Instruction:
    """Raises DockerfileError without a location. Mounts of RUN are left alone: `mounts.parse_mount` expands them."""
    changes: dict[str, Any] = {}
    for name, how in EXPANDED_FIELDS.get(type(instruction), {}).items():  # type: ignore[arg-type]
        if name not in {item.name for item in fields(instruction)}:  # type: ignore[arg-type]
            continue
        value = getattr(instruction, name)
        if how is Expansion.WORD:
            changes[name] = _word(value, variables, escape)
        elif how is Expansion.WORDS:
            changes[name] = tuple(word for text in value for word in expand_words(text, variables, escape))
        elif how is Expansion.HEREDOC:
            changes[name] = tuple(_heredoc(heredoc, variables) for heredoc in value)
    return replace(instruction, **changes) if changes else instruction  # type: ignore[type-var]


def _word(value: Any, variables: Mapping[str, str], escape: str) -> Any:
    if isinstance(value, str):
        return expand(value, variables, escape)
    if isinstance(value, KeyValue):
        return replace(value, key=expand(value.key, variables, escape), value=expand(value.value, variables, escape))
    return tuple(_word(item, variables, escape) for item in value)


def _heredoc(heredoc: Heredoc, variables: Mapping[str, str]) -> Heredoc:
    return replace(heredoc, content=expand_heredoc(heredoc.content, variables)) if heredoc.expand else heredoc
