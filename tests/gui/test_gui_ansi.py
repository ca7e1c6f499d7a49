"""Terminal colours become styles; everything else that is not text disappears."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.gui.ansi import PLAIN, Span, Style, spans


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", [Span("plain", PLAIN)]),
        ("\x1b[31mred\x1b[0m.", [Span("red", Style(1)), Span(".", PLAIN)]),
        (
            "\x1b[1;92mok\x1b[22m x\x1b[39m y",
            [Span("ok", Style(10, bold=True)), Span(" x", Style(10)), Span(" y", PLAIN)],
        ),
        ("\x1b[38;5;196mr", [Span("r", Style("#ff0000"))]),
        ("\x1b[38;5;3mr", [Span("r", Style(3))]),
        ("\x1b[38;5;232mr", [Span("r", Style("#080808"))]),
        ("\x1b[38;2;1;2;300mr", [Span("r", Style("#0102ff"))]),
        ("\x1b[48;5;21mb", [Span("b", PLAIN)]),
        ("\x1b[2mfaint\x1b[m", [Span("faint", Style(faint=True))]),
        ("\x1b[2K\x1b[1Ahidden\rtext", [Span("hidden", PLAIN), Span("text", PLAIN)]),
        ("\x1b]0;title\x07after", [Span("after", PLAIN)]),
        ("tab\tstays", [Span("tab\tstays", PLAIN)]),
    ],
)
def test_sequences(text: str, expected: list[Span]) -> None:
    assert spans(text)[0] == expected


def test_a_colour_goes_on_in_the_next_line() -> None:
    _, style = spans("\x1b[33mfirst")
    assert spans("second", style)[0] == [Span("second", Style(3))]


@given(st.text())
def test_no_control_character_gets_through(text: str) -> None:
    for span in spans(text)[0]:
        assert not set(span.text) & {chr(c) for c in (*range(9), *range(11, 32), 127)}


@given(st.text(alphabet=st.characters(min_codepoint=32, exclude_characters="\x7f")))
def test_plain_text_is_kept(text: str) -> None:
    assert "".join(span.text for span in spans(text)[0]) == text
