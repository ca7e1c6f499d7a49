"""How Wherry looks: two palettes as data, one type scale, one style sheet made from them.

Text colours keep a contrast of at least 4.5:1 on the surfaces they are used on (WCAG 2.2, 1.4.3); a test checks the
pairs in `READABLE_PAIRS`.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from app.gui import icons
from app.gui.qt import (
    QApplication,
    QColor,
    QFont,
    QFontDatabase,
    QGuiApplication,
    QIcon,
    QObject,
    QPalette,
    QPixmap,
    Qt,
    Signal,
)

Mode = Literal["system", "light", "dark"]
MODES: tuple[Mode, ...] = get_args(Mode)

Tone = Literal["success", "warning", "danger", "info", "neutral"]


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours by what they are for, as #rrggbb."""

    window: str
    sidebar: str
    surface: str
    hover: str
    border: str
    border_strong: str
    text: str
    text_muted: str
    text_faint: str
    accent: str
    accent_hover: str
    accent_soft: str
    on_accent: str
    success: str
    success_soft: str
    warning: str
    warning_soft: str
    danger: str
    danger_soft: str
    info: str
    info_soft: str
    neutral: str
    neutral_soft: str
    match: str

    def tone(self, tone: Tone) -> tuple[str, str]:
        """(text colour, background colour) of a pill or banner of that tone."""
        return getattr(self, tone), getattr(self, f"{tone}_soft")


LIGHT = Palette(
    window="#f6f7f9",
    sidebar="#edeff3",
    surface="#ffffff",
    hover="#f3f5f8",
    border="#e2e6ec",
    border_strong="#c5ccd6",
    text="#161b22",
    text_muted="#505a66",
    text_faint="#667180",
    accent="#2258d4",
    accent_hover="#1a48b3",
    accent_soft="#e7eefc",
    on_accent="#ffffff",
    success="#116b37",
    success_soft="#dff4e7",
    warning="#7d5200",
    warning_soft="#fcefcf",
    danger="#b3242a",
    danger_soft="#fce7e7",
    info="#0a5f7e",
    info_soft="#dcf1f9",
    neutral="#505a66",
    neutral_soft="#eaedf1",
    match="#ffe08a",
)

DARK = Palette(
    window="#11151a",
    sidebar="#0c1014",
    surface="#181d24",
    hover="#1f262f",
    border="#283039",
    border_strong="#3c4855",
    text="#e8ecf1",
    text_muted="#a7b1be",
    text_faint="#8592a2",
    accent="#6f9eff",
    accent_hover="#8fb3ff",
    accent_soft="#1b2b4b",
    on_accent="#0a1430",
    success="#62d391",
    success_soft="#143122",
    warning="#f0bd58",
    warning_soft="#362a10",
    danger="#ff8a86",
    danger_soft="#3d1c1e",
    info="#6cc7e6",
    info_soft="#11303c",
    neutral="#a7b1be",
    neutral_soft="#262e38",
    match="#6b5410",
)

READABLE_PAIRS: tuple[tuple[str, str], ...] = (
    ("text", "window"),
    ("text", "surface"),
    ("text", "hover"),
    ("text", "accent_soft"),
    ("text", "match"),
    ("text_muted", "window"),
    ("text_muted", "sidebar"),
    ("text_muted", "surface"),
    ("text_muted", "accent_soft"),
    ("text_faint", "surface"),
    ("text_faint", "window"),
    ("accent", "surface"),
    ("accent", "accent_soft"),
    ("on_accent", "accent"),
    ("success", "success_soft"),
    ("warning", "warning_soft"),
    ("danger", "danger_soft"),
    ("danger", "surface"),
    ("info", "info_soft"),
    ("neutral", "neutral_soft"),
)

# Logical pixels.
SPACE = 8
RADIUS = 8
CARD_RADIUS = 12
ROW_HEIGHT = 56
SIDEBAR_WIDTH = 232

TITLE_PX = 24
HEADING_PX = 16
BODY_PX = 14
SMALL_PX = 12

# Without a desktop's own setting Qt falls back to whatever fontconfig calls "Sans Serif"; on Linux we would rather
# have one of these. Windows and macOS always name a good one.
LINUX_SANS = ("Inter", "Cantarell", "Ubuntu", "Noto Sans", "Open Sans", "Noto Sans CJK SC", "DejaVu Sans")
MONO = ("JetBrains Mono", "Cascadia Mono", "SF Mono", "Menlo", "Consolas", "Noto Sans Mono", "DejaVu Sans Mono")
CJK_FALLBACK = ("Noto Sans CJK SC", "Microsoft YaHei UI", "PingFang SC", "Source Han Sans SC")


def relative_luminance(colour: str) -> float:
    """WCAG's relative luminance of an #rrggbb colour, 0 (black) to 1 (white)."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """WCAG's contrast ratio of two #rrggbb colours, 1 to 21."""
    dark, light = sorted((relative_luminance(one), relative_luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def interface_font(platform_family: str, installed: set[str]) -> QFont:
    """The platform's own font unless that is only fontconfig's last resort; Chinese always covered."""
    last_resort = platform_family in {"", "Sans Serif", "DejaVu Sans", "Sans"}
    first = [f for f in LINUX_SANS if f in installed][:1] if last_resort else [platform_family]
    font = QFont()
    font.setFamilies([*first, *(f for f in CJK_FALLBACK if f in installed and f not in first)])
    font.setPixelSize(BODY_PX)
    font.setHintingPreference(QFont.HintingPreference.PreferNoHinting)
    return font


def fixed_font(size_px: int = 13) -> QFont:
    """The font of logs, ids and commands."""
    installed = set(QFontDatabase.families())
    font = QFont()
    font.setFamilies([f for f in (*MONO, *CJK_FALLBACK) if f in installed] or ["monospace"])
    font.setStyleHint(QFont.StyleHint.Monospace)
    font.setPixelSize(size_px)
    return font


class Theme(QObject):
    """The look in force. `changed` follows a switch by the user or by the desktop; what paints itself repaints then."""

    changed = Signal()

    def __init__(self, application: QApplication, mode: Mode = "system") -> None:
        super().__init__(application)
        self._application = application
        self._mode = mode
        application.setStyle("Fusion")
        families = set(QFontDatabase.families())
        system = QFontDatabase.systemFont(QFontDatabase.SystemFont.GeneralFont)
        application.setFont(interface_font(system.family(), families))
        QGuiApplication.styleHints().colorSchemeChanged.connect(self._desktop_changed)
        self._apply()

    @property
    def mode(self) -> Mode:
        return self._mode

    @property
    def is_dark(self) -> bool:
        if self._mode == "system":
            return QGuiApplication.styleHints().colorScheme() == Qt.ColorScheme.Dark
        return self._mode == "dark"

    @property
    def palette(self) -> Palette:
        return DARK if self.is_dark else LIGHT

    def set_mode(self, mode: str) -> None:
        """Switch to "light", "dark" or "system" (follow the desktop); anything else counts as "system"."""
        self._mode = next((known for known in MODES if known == mode), "system")
        self._apply()

    def icon(self, name: str, colour: str = "text_muted") -> QIcon:
        """The drawing `name` in the palette's colour of that name."""
        palette = self.palette
        return icons.icon(name, getattr(palette, colour), disabled=palette.border_strong, checked=palette.accent)

    def pixmap(self, name: str, colour: str, size_px: int, pixel_ratio: float = 1.0) -> QPixmap:
        return icons.pixmap(name, getattr(self.palette, colour), size_px, pixel_ratio)

    def _desktop_changed(self) -> None:
        if self._mode == "system":
            self._apply()

    def _apply(self) -> None:
        self._application.setPalette(qt_palette(self.palette))
        self._application.setStyleSheet(style_sheet(self.palette))
        self.changed.emit()


def qt_palette(palette: Palette) -> QPalette:
    """The same colours for what the style sheet does not reach (native dialogs, tool tips, text selection)."""
    role = QPalette.ColorRole
    result = QPalette()
    for name, colour in {
        role.Window: palette.window,
        role.Base: palette.surface,
        role.AlternateBase: palette.hover,
        role.Button: palette.surface,
        role.WindowText: palette.text,
        role.Text: palette.text,
        role.ButtonText: palette.text,
        role.ToolTipBase: palette.surface,
        role.ToolTipText: palette.text,
        role.PlaceholderText: palette.text_faint,
        role.Highlight: palette.accent,
        role.HighlightedText: palette.on_accent,
        role.Link: palette.accent,
    }.items():
        result.setColor(name, QColor(colour))
    for name in (role.Text, role.WindowText, role.ButtonText):
        result.setColor(QPalette.ColorGroup.Disabled, name, QColor(palette.border_strong))
    return result


def style_sheet(p: Palette) -> str:
    """The style sheet of the whole application. Widgets choose a look with the dynamic property `look`."""
    return f"""
QMainWindow, QDialog {{ background: {p.window}; }}
QWidget {{ color: {p.text}; }}
QToolTip {{ background: {p.surface}; color: {p.text}; border: 1px solid {p.border_strong}; padding: 4px 6px; }}

QLabel {{ background: transparent; }}
QLabel[look="title"] {{ font-size: {TITLE_PX}px; font-weight: 600; }}
QLabel[look="heading"] {{ font-size: {HEADING_PX}px; font-weight: 600; }}
QLabel[look="muted"] {{ color: {p.text_muted}; }}
QLabel[look="small"] {{ color: {p.text_muted}; font-size: {SMALL_PX}px; }}
QLabel[look="field"] {{ color: {p.text_muted}; font-size: {SMALL_PX}px; font-weight: 600; }}
QLabel[look="brand"] {{ font-size: 18px; font-weight: 700; }}
QLabel[look="problem"] {{ color: {p.danger}; font-size: {SMALL_PX}px; }}

QFrame#sidebar {{ background: {p.sidebar}; border: none; border-right: 1px solid {p.border}; }}
QFrame[look="card"] {{ background: {p.surface}; border: 1px solid {p.border}; border-radius: {CARD_RADIUS}px; }}
QFrame[look="line"] {{ background: {p.border}; border: none; max-height: 1px; min-height: 1px; }}
QFrame[look="bulk"] {{ background: {p.accent_soft}; border: none; border-radius: {RADIUS}px; }}

QPushButton {{
    background: {p.surface}; color: {p.text}; border: 1px solid {p.border_strong}; border-radius: {RADIUS}px;
    padding: 0 14px; min-height: 34px; font-weight: 600;
}}
QPushButton:hover {{ background: {p.hover}; }}
QPushButton:pressed {{ background: {p.border}; }}
QPushButton:focus {{ border: 2px solid {p.accent}; padding: 0 13px; min-height: 32px; }}
QPushButton:disabled {{ color: {p.text_faint}; background: {p.hover}; border-color: {p.border}; }}
QPushButton[look="primary"] {{ background: {p.accent}; color: {p.on_accent}; border: 1px solid {p.accent}; }}
QPushButton[look="primary"]:hover {{ background: {p.accent_hover}; border-color: {p.accent_hover}; }}
QPushButton[look="primary"]:focus {{ border: 2px solid {p.text}; }}
QPushButton[look="primary"]:disabled {{ background: {p.border}; color: {p.text_faint}; border-color: {p.border}; }}
QPushButton[look="danger"] {{ color: {p.danger}; border-color: {p.border_strong}; }}
QPushButton[look="danger"]:hover {{ background: {p.danger_soft}; }}
QPushButton[look="quiet"] {{ background: transparent; border: 1px solid transparent; color: {p.text}; }}
QPushButton[look="quiet"]:hover {{ background: {p.hover}; }}
QPushButton[look="quiet"]:focus {{ border: 2px solid {p.accent}; }}

QPushButton[look="nav"] {{
    background: transparent; border: 2px solid transparent; border-radius: {RADIUS}px; text-align: left;
    padding: 0 10px; min-height: 38px; color: {p.text_muted}; font-weight: 600;
}}
QPushButton[look="nav"]:hover {{ background: {p.border}; color: {p.text}; }}
QPushButton[look="nav"]:checked {{ background: {p.surface}; color: {p.text}; border-color: {p.border}; }}
QPushButton[look="nav"]:focus {{ border-color: {p.accent}; padding: 0 10px; min-height: 38px; }}

QToolButton {{
    background: transparent; border: 2px solid transparent; border-radius: {RADIUS}px; padding: 5px; color: {p.text};
}}
QToolButton:hover {{ background: {p.hover}; border-color: {p.hover}; }}
QToolButton:pressed {{ background: {p.border}; }}
QToolButton:checked {{ background: {p.accent_soft}; border-color: {p.accent_soft}; color: {p.accent}; }}
QToolButton:focus {{ border-color: {p.accent}; }}

QLineEdit, QPlainTextEdit[look="field"], QComboBox {{
    background: {p.surface}; color: {p.text}; border: 1px solid {p.border_strong}; border-radius: {RADIUS}px;
    padding: 0 10px; min-height: 34px; selection-background-color: {p.accent};
    selection-color: {p.on_accent}; placeholder-text-color: {p.text_faint};
}}
QPlainTextEdit[look="field"] {{ padding: 6px 8px; }}
QLineEdit:focus, QPlainTextEdit[look="field"]:focus, QComboBox:focus {{
    border: 2px solid {p.accent}; padding: 0 9px; min-height: 32px;
}}
QPlainTextEdit[look="field"]:focus {{ padding: 5px 7px; }}
QLineEdit[invalid="true"] {{ border: 2px solid {p.danger}; padding: 0 9px; min-height: 32px; }}
QComboBox::drop-down {{ border: none; width: 30px; }}
QComboBox::down-arrow {{ image: none; }}
QComboBox QAbstractItemView {{
    background: {p.surface}; border: 1px solid {p.border_strong}; selection-background-color: {p.accent_soft};
    selection-color: {p.text}; outline: none;
}}

QCheckBox {{
    spacing: 8px; background: transparent; border: 2px solid transparent; border-radius: 6px; padding: 2px;
    margin-left: -4px;
}}
QCheckBox:focus {{ border-color: {p.accent}; }}
QCheckBox::indicator {{
    width: 16px; height: 16px; border: 1px solid {p.border_strong}; border-radius: 5px; background: {p.surface};
}}
QCheckBox::indicator:checked {{ background: {p.accent}; border-color: {p.accent}; image: none; }}

QTreeView {{
    background: transparent; border: none; outline: none; selection-background-color: transparent;
    show-decoration-selected: 0;
}}
QTreeView::item, QTreeView::item:hover, QTreeView::item:selected, QTreeView::branch {{
    background: transparent; border: none;
}}
QHeaderView {{ background: transparent; border: none; }}
QHeaderView::section {{
    background: transparent; color: {p.text_muted}; border: none; border-bottom: 1px solid {p.border};
    padding: 0 8px; height: 40px; font-size: {SMALL_PX}px; font-weight: 600;
}}
QHeaderView::section:first {{ padding-left: 20px; }}

QPlainTextEdit[look="console"] {{
    background: {p.surface}; color: {p.text}; border: none; padding: 10px 14px;
    selection-background-color: {p.accent}; selection-color: {p.on_accent};
}}

QScrollArea, QScrollArea > QWidget > QWidget {{ background: transparent; border: none; }}
QScrollBar:vertical {{ background: transparent; width: 12px; margin: 2px; }}
QScrollBar:horizontal {{ background: transparent; height: 12px; margin: 2px; }}
QScrollBar::handle {{ background: {p.border_strong}; border-radius: 4px; min-height: 32px; min-width: 32px; }}
QScrollBar::handle:hover {{ background: {p.text_faint}; }}
QScrollBar::add-line, QScrollBar::sub-line {{ width: 0; height: 0; }}
QScrollBar::add-page, QScrollBar::sub-page {{ background: transparent; }}

QMenu {{ background: {p.surface}; border: 1px solid {p.border_strong}; padding: 6px; border-radius: {RADIUS}px; }}
QMenu::item {{ padding: 7px 24px 7px 10px; border-radius: 6px; }}
QMenu::icon {{ padding-left: 10px; }}
QMenu::item:selected {{ background: {p.accent_soft}; color: {p.text}; }}
QMenu::item:disabled {{ color: {p.text_faint}; }}
QMenu::separator {{ height: 1px; background: {p.border}; margin: 6px 8px; }}
"""
