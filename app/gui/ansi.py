"""Terminal output as spans of text with a style: the colours programs write into their logs.

Understood are SGR sequences (ECMA-48 8.3.117: bold, faint, the 16 colours, 256 colours and RGB as foreground); every
other escape sequence and control character is dropped, so that no log line can move a cursor or hide text.
"""

import re
from dataclasses import dataclass, replace

# CSI … final byte | OSC … BEL or ST | two-byte escapes | control characters except tab
_SEQUENCE = re.compile(
    r"\x1b\[([0-9;:?]*)[ -/]*([@-~])|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-Z\\-_]|[\x00-\x08\x0b-\x1f\x7f]"
)

_CUBE = (0, 95, 135, 175, 215, 255)  # xterm's 6x6x6 colour cube levels


@dataclass(frozen=True, slots=True)
class Style:
    """`colour` is an index into the 16 terminal colours, or "#rrggbb", or None for the default."""

    colour: int | str | None = None
    bold: bool = False
    faint: bool = False


PLAIN = Style()


@dataclass(frozen=True, slots=True)
class Span:
    text: str
    style: Style


def spans(text: str, style: Style = PLAIN) -> tuple[list[Span], Style]:
    """Split `text`, which starts in `style`; returns the spans and the style in force after them."""
    result: list[Span] = []
    position = 0
    for match in _SEQUENCE.finditer(text):
        if match.start() > position:
            result.append(Span(text[position : match.start()], style))
        position = match.end()
        if match.group(2) == "m":
            style = _select(style, match.group(1))
    if position < len(text):
        result.append(Span(text[position:], style))
    return result, style


def _select(style: Style, parameters: str) -> Style:
    """SGR: the style after `parameters`. What is not understood changes nothing."""
    codes = [int(code) if code.isdigit() else 0 for code in parameters.replace(":", ";").split(";")]
    while codes:
        code = codes.pop(0)
        if code == 0:
            style = PLAIN
        elif code == 1:
            style = replace(style, bold=True)
        elif code == 2:
            style = replace(style, faint=True)
        elif code == 22:
            style = replace(style, bold=False, faint=False)
        elif 30 <= code <= 37:
            style = replace(style, colour=code - 30)
        elif 90 <= code <= 97:
            style = replace(style, colour=code - 90 + 8)
        elif code == 39:
            style = replace(style, colour=None)
        elif code in (38, 48):
            colour, codes = _extended(codes)
            if code == 38:
                style = replace(style, colour=colour)
    return style


def _extended(codes: list[int]) -> tuple[int | str | None, list[int]]:
    """The colour after a 38 or 48, and the codes behind it."""
    if len(codes) >= 2 and codes[0] == 5:
        return _indexed(codes[1]), codes[2:]
    if len(codes) >= 4 and codes[0] == 2:
        red, green, blue = (min(code, 255) for code in codes[1:4])
        return f"#{red:02x}{green:02x}{blue:02x}", codes[4:]
    return None, []


def _indexed(index: int) -> int | str | None:
    if index < 16:
        return index
    if index < 232:
        red, rest = divmod(index - 16, 36)
        green, blue = divmod(rest, 6)
        return f"#{_CUBE[red]:02x}{_CUBE[green]:02x}{_CUBE[blue]:02x}"
    if index < 256:
        grey = 8 + (index - 232) * 10
        return f"#{grey:02x}{grey:02x}{grey:02x}"
    return None
