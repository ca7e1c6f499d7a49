"""Starting the window, in phases: each needs the ones before it, and says what to do when it fails.

1. only one instance: a second start brings the first one to the front and ends
2. settings and language, before any text is made
3. Qt and the look
4. the link to the engine, the window, the tray
5. the event loop; afterwards everything is closed in the opposite order
"""

import contextlib
import signal
import socket
import sys
from collections.abc import Callable, Iterator

from app.core.errors import UserError
from app.core.log_file import log_to
from app.core.paths import Paths, user_paths
from app.core.settings import Settings
from app.core.single_instance import SingleInstance
from app.core.translations import language, system_language, use_language
from app.gui.engine_link import EngineLink
from app.gui.qt import QApplication, QLibraryInfo, QLocale, QObject, QSocketNotifier, Qt, QTranslator, Signal
from app.gui.theme import Theme
from app.gui.window import MainWindow
from app.services.engines import EngineBackend, choose_backend
from app.tray.tray import Tray

QUIT_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class SecondStart(QObject):
    """Carries "somebody started Wherry again" from the thread that hears it to the Qt thread."""

    called = Signal()


def main(backend: EngineBackend | None = None) -> int:
    """Show the window for `backend` (default: this system's own) until it is quit; the exit code.

    Raises UserError when the window cannot be shown at all.
    """
    paths = user_paths()
    with contextlib.ExitStack() as cleanup:
        instance = SingleInstance(paths.runtime)
        try:
            if not instance.acquire():
                return 0
        except OSError as failed:
            raise UserError(
                f"Wherry cannot use {paths.runtime}: {failed.strerror}.", "Check who owns the directory."
            ) from failed
        cleanup.callback(instance.close)
        settings, problem = load_settings(paths)
        use_language(settings.get("language", "") or system_language())
        application = make_application()
        theme = Theme(application)
        theme.set_mode(settings.get("look", "system"))
        link = EngineLink(backend or choose_backend(), application)
        cleanup.callback(link.close)
        window = MainWindow(theme, link)
        tray = Tray(theme, link, window.bring_up, window.stop_engine, hint_once(settings))
        window.set_hiding_place(tray)
        window.mode_chosen.connect(lambda mode: remember(settings, "look", mode))
        if problem is not None:
            window.machine.banner.say(problem.sentence, problem.remedy, "warning")
        again = SecondStart()
        again.called.connect(window.bring_up, Qt.ConnectionType.QueuedConnection)
        instance.on_second_start(again.called.emit)
        cleanup.enter_context(quit_on_signals(application))
        tray.show()
        cleanup.callback(tray.hide)
        window.show()
        return application.exec()


def load_settings(paths: Paths) -> tuple[Settings, UserError | None]:
    """The settings; with the reason, if they cannot be read and defaults take their place."""
    with contextlib.suppress(OSError):
        log_to(paths.logs, "gui")
    try:
        return Settings.load(paths.settings_file), None
    except UserError as unreadable:
        return Settings(paths.settings_file, {}), unreadable


def remember(settings: Settings, name: str, value: object) -> None:
    """Keep a choice; one which cannot be written still holds until the end of the session."""
    with contextlib.suppress(UserError):
        settings.set(name, value)


def make_application() -> QApplication:
    """The one QApplication, with Qt's own texts (file dialogs) in the user's language."""
    known = QApplication.instance()
    application = known if isinstance(known, QApplication) else QApplication(sys.argv[:1])
    application.setApplicationName("wherry")
    application.setApplicationDisplayName("Wherry")
    application.setDesktopFileName("wherry")
    application.setQuitOnLastWindowClosed(False)
    translator = QTranslator(application)
    directory = QLibraryInfo.path(QLibraryInfo.LibraryPath.TranslationsPath)
    if translator.load(QLocale(language()), "qtbase", "_", directory):
        application.installTranslator(translator)
    return application


def hint_once(settings: Settings) -> Callable[[], bool]:
    """True the first time it is asked, over all sessions."""

    def due() -> bool:
        first = not settings.get("tray_hint_given", False)
        remember(settings, "tray_hint_given", True)
        return first

    return due


@contextlib.contextmanager
def quit_on_signals(application: QApplication) -> Iterator[None]:
    """Ctrl+C in the terminal and a polite SIGTERM end the window as Quit does.

    Python runs a signal's handler when its interpreter runs next, which in Qt's event loop may be never: so the
    signal also writes to a socket that wakes the loop.
    """
    reader, writer = socket.socketpair()
    for end in (reader, writer):
        end.setblocking(False)
    notifier = QSocketNotifier(reader.fileno(), QSocketNotifier.Type.Read)
    notifier.activated.connect(lambda: reader.recv(64))
    wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    before = {number: signal.signal(number, lambda *_: application.quit()) for number in QUIT_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        notifier.setEnabled(False)
        reader.close()
        writer.close()
