"""The palettes are readable, the drawings draw, the style sheet parses."""

import pytest

from app.gui import icons
from app.gui.qt import QColor, QImage
from app.gui.theme import DARK, LIGHT, READABLE_PAIRS, Palette, Theme, Tone, contrast

TONES: tuple[Tone, ...] = ("success", "warning", "danger", "info", "neutral")


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("pair", READABLE_PAIRS, ids="-on-".join)
def test_text_is_readable(palette: Palette, pair: tuple[str, str]) -> None:
    ink, paper = (getattr(palette, name) for name in pair)
    assert contrast(ink, paper) >= 4.5


def test_contrast_knows_the_extremes() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#777777") == pytest.approx(1)


@pytest.mark.parametrize("name", sorted(icons.DRAWINGS))
def test_every_drawing_draws(qapp: object, name: str) -> None:
    image: QImage = icons.pixmap(name, "#ff0000", 24).toImage()
    inked = sum(image.pixelColor(x, y).alpha() > 100 for x in range(24) for y in range(24))
    assert 10 < inked < 400
    assert {
        image.pixelColor(x, y).name() for x in range(24) for y in range(24) if image.pixelColor(x, y).alpha() == 255
    } <= {QColor("#ff0000").name()}


def test_switching_the_look_changes_the_palette(theme: Theme) -> None:
    theme.set_mode("light")
    assert theme.palette is LIGHT
    theme.set_mode("dark")
    assert theme.palette is DARK
    assert theme.is_dark
    theme.set_mode("nonsense")
    assert theme.mode == "system"
