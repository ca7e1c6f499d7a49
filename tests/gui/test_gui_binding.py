"""The Qt binding itself is sound.

PySide6 6.12.0 on a Python before 3.12, where None is not immortal, gives away a reference to None whenever a call
returns None: a window that paints aborts within minutes ("Fatal Python error: none_dealloc").
"""

import sys

from app.gui.qt import QColor, QPainter, QPixmap


def test_calls_that_return_none_keep_its_references(qapp: object) -> None:
    pixmap = QPixmap(4, 4)
    painter = QPainter(pixmap)
    before = sys.getrefcount(None)
    for _ in range(1000):
        painter.setPen(QColor("red"))
    after = sys.getrefcount(None)
    painter.end()
    assert after > before - 500
