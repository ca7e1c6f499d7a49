"""Wherry's icons: line drawings on a 24-unit grid, one colour, tinted when rendered.

Each value is the inside of an `<svg>`: strokes take the colour asked for; `class="fill"` shapes are filled with it.
"""

from functools import lru_cache

from app.gui.qt import QByteArray, QColor, QIcon, QPainter, QPixmap, QRectF, QSvgRenderer, Qt

_SIZES = (16, 20, 24, 32, 48, 64)
_PIXEL_RATIOS = (1, 2)

DRAWINGS: dict[str, str] = {
    # the boat: a wherry has one tall sail and a low hull
    "boat": (
        '<path class="fill" d="M12.2 2.6 L12.2 14 L4.6 14 C8.2 11.4 10.9 7.4 12.2 2.6 Z"/>'
        '<path class="fill" d="M14 7.2 C16.2 9.2 18 11.5 19 14 L14 14 Z" opacity="0.75"/>'
        '<path class="fill" d="M2.6 16 L21.4 16 C20.4 18.4 18.6 20 16.4 20 L7.6 20 C5.4 20 3.6 18.4 2.6 16 Z"/>'
    ),
    "containers": (
        '<path d="M12 3 L20 7.4 L20 16.6 L12 21 L4 16.6 L4 7.4 Z"/><path d="M4.3 7.6 L12 12 L19.7 7.6"/>'
        '<path d="M12 12 L12 20.8"/>'
    ),
    "images": (
        '<path d="M12 3.5 L21 8 L12 12.5 L3 8 Z"/><path d="M3.6 12.2 L12 16.4 L20.4 12.2"/>'
        '<path d="M3.6 16.2 L12 20.4 L20.4 16.2"/>'
    ),
    "machine": (
        '<rect x="6" y="6" width="12" height="12" rx="2"/><rect x="10" y="10" width="4" height="4" rx="0.6"/>'
        '<path d="M9.5 2.8 L9.5 6 M14.5 2.8 L14.5 6 M9.5 18 L9.5 21.2 M14.5 18 L14.5 21.2"/>'
        '<path d="M2.8 9.5 L6 9.5 M2.8 14.5 L6 14.5 M18 9.5 L21.2 9.5 M18 14.5 L21.2 14.5"/>'
    ),
    "start": '<path class="fill" d="M8 5.6 C8 4.9 8.7 4.5 9.3 4.8 L19.2 11.2 C19.8 11.6 19.8 12.4 19.2 12.8 '
    'L9.3 19.2 C8.7 19.5 8 19.1 8 18.4 Z"/>',
    "stop": '<rect class="fill" x="6" y="6" width="12" height="12" rx="2.2"/>',
    "restart": '<path d="M19.2 10 A7.6 7.6 0 1 0 19.4 14.2"/><path d="M19.6 4.8 L19.6 10.2 L14.2 10.2"/>',
    "remove": (
        '<path d="M4.5 6.8 L19.5 6.8"/>'
        '<path d="M9 6.8 L9 4.6 C9 4 9.4 3.6 10 3.6 L14 3.6 C14.6 3.6 15 4 15 4.6 L15 6.8"/>'
        '<path d="M6.4 6.8 L7.2 19 C7.3 19.9 7.9 20.4 8.7 20.4 L15.3 20.4 C16.1 20.4 16.7 19.9 16.8 19 L17.6 6.8"/>'
        '<path d="M10 10.8 L10.2 16.4 M14 10.8 L13.8 16.4"/>'
    ),
    "logs": '<path d="M5 6 L19 6 M5 10 L15 10 M5 14 L19 14 M5 18 L12 18"/>',
    "search": '<circle cx="10.8" cy="10.8" r="6.3"/><path d="M15.6 15.6 L20.4 20.4"/>',
    "add": '<path d="M12 5 L12 19 M5 12 L19 12"/>',
    "copy": (
        '<rect x="8.5" y="8.5" width="11.5" height="11.5" rx="2.2"/>'
        '<path d="M15.5 8.5 L15.5 6.2 C15.5 5 14.7 4.2 13.5 4.2 L6.2 4.2 C5 4.2 4.2 5 4.2 6.2 L4.2 13.5 '
        'C4.2 14.7 5 15.5 6.2 15.5 L8.5 15.5"/>'
    ),
    "check": '<path d="M5 12.8 L9.8 17.4 L19 7"/>',
    "close": '<path d="M6.5 6.5 L17.5 17.5 M17.5 6.5 L6.5 17.5"/>',
    "warning": (
        '<path d="M12 4 L21 19.4 L3 19.4 Z"/><path d="M12 10 L12 14"/><circle class="fill" cx="12" cy="16.7" r="0.6"/>'
    ),
    "info": '<circle cx="12" cy="12" r="8.6"/><path d="M12 11.2 L12 16"/>'
    '<circle class="fill" cx="12" cy="8.2" r="0.6"/>',
    "light": (
        '<circle cx="12" cy="12" r="4"/><path d="M12 2.8 L12 5 M12 19 L12 21.2 M2.8 12 L5 12 M19 12 L21.2 12 '
        'M5.5 5.5 L7 7 M17 17 L18.5 18.5 M5.5 18.5 L7 17 M17 7 L18.5 5.5"/>'
    ),
    "dark": '<path d="M20 14.2 A8.4 8.4 0 1 1 9.8 4 A6.6 6.6 0 0 0 20 14.2 Z"/>',
    "system": '<rect x="3.2" y="4.6" width="17.6" height="11.6" rx="2"/><path d="M9 20 L15 20 M12 16.4 L12 20"/>',
    "clock": '<circle cx="12" cy="12" r="8.6"/><path d="M12 7 L12 12.2 L15.4 14.2"/>',
    "load": '<path d="M12 15 L12 4.4 M7.6 8.6 L12 4.2 L16.4 8.6"/>'
    '<path d="M4.4 14.6 L4.4 18 C4.4 19.2 5.2 20 6.4 20 L17.6 20 C18.8 20 19.6 19.2 19.6 18 L19.6 14.6"/>',
    "back": '<path d="M14.6 5.4 L8 12 L14.6 18.6"/>',
    "down": '<path d="M12 4.4 L12 19 M6.4 13.6 L12 19.2 L17.6 13.6"/>',
    "previous": '<path d="M6 14.8 L12 8.8 L18 14.8"/>',
    "next": '<path d="M6 9.2 L12 15.2 L18 9.2"/>',
    "clear": (
        '<path d="M8.6 19.6 L4.4 15.4 C3.7 14.7 3.7 13.7 4.4 13 L12.8 4.6 C13.5 3.9 14.5 3.9 15.2 4.6 L19.4 8.8 '
        'C20.1 9.5 20.1 10.5 19.4 11.2 L11 19.6 Z"/><path d="M8.6 8.8 L15.2 15.4"/><path d="M11 19.6 L20 19.6"/>'
    ),
    "open": '<path d="M10 5 L6.4 5 C5.2 5 4.4 5.8 4.4 7 L4.4 17.6 C4.4 18.8 5.2 19.6 6.4 19.6 L17 19.6 '
    'C18.2 19.6 19 18.8 19 17.6 L19 14"/><path d="M13.6 4.4 L19.6 4.4 L19.6 10.4 M19.2 4.8 L11.4 12.6"/>',
    "power": '<path d="M12 3.6 L12 11.6"/><path d="M7.2 6.6 A7.8 7.8 0 1 0 16.8 6.6"/>',
}


def svg(name: str, colour: QColor) -> bytes:
    """The whole SVG document of the drawing `name` in `colour`. KeyError for a name nobody drew."""
    tint = colour.name()
    inside = DRAWINGS[name].replace('class="fill"', f'fill="{tint}" stroke="none"')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24" fill="none" stroke="{tint}" '
        f'stroke-width="1.7" stroke-linecap="round" stroke-linejoin="round">{inside}</svg>'
    ).encode()


@lru_cache(maxsize=512)
def _pixmap(name: str, rgb: str, size_px: int, pixel_ratio: float) -> QPixmap:
    pixmap = QPixmap(round(size_px * pixel_ratio), round(size_px * pixel_ratio))
    pixmap.fill(Qt.GlobalColor.transparent)
    painter = QPainter(pixmap)
    QSvgRenderer(QByteArray(svg(name, QColor(rgb)))).render(painter, QRectF(pixmap.rect()))
    painter.end()
    pixmap.setDevicePixelRatio(pixel_ratio)
    return pixmap


def pixmap(name: str, colour: str, size_px: int, pixel_ratio: float = 1.0) -> QPixmap:
    """The drawing as a square pixmap of `size_px` logical pixels."""
    return _pixmap(name, colour, size_px, pixel_ratio)


def icon(name: str, colour: str, *, disabled: str | None = None, checked: str | None = None) -> QIcon:
    """An icon in `colour`, with other colours for the disabled and the checked state if given."""
    result = QIcon()
    looks = [
        (colour, QIcon.Mode.Normal, QIcon.State.Off),
        (disabled, QIcon.Mode.Disabled, QIcon.State.Off),
        (checked, QIcon.Mode.Normal, QIcon.State.On),
    ]
    for tint, mode, state in looks:
        if tint is None:
            continue
        for size_px in _SIZES:
            for ratio in _PIXEL_RATIOS:
                result.addPixmap(_pixmap(name, tint, size_px, ratio), mode, state)
    return result
