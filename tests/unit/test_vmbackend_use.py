"""Who counts as a user of the engine's socket."""

import subprocess
import sys
import threading
from pathlib import Path

from vmbackend import host
from vmbackend.forward.use import MeteredListener, UseMeter


def test_our_own_connections_are_no_use_and_those_of_others_are(tmp_path: Path) -> None:
    path = tmp_path / "s"
    meter = UseMeter()
    listener = MeteredListener(host.EngineListener("m", path), meter)
    ours = host.connect_engine("m", path, 5)
    stream = listener.accept()
    assert not meter.in_use
    stream.close()
    ours.close()

    code = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.sendall(b'x'); s.recv(1)"
    client = subprocess.Popen([sys.executable, "-c", code, str(path)])
    stream = listener.accept()
    assert stream.recv(1) == b"x"
    assert meter.in_use and meter.idle_for_s == 0
    stream.hang_up()
    stream.close()
    assert client.wait(30) == 0
    assert not meter.in_use
    listener.close()


def test_idleness_begins_with_the_end_of_the_last_use() -> None:
    meter = UseMeter()

    def use() -> None:
        meter.begin()
        meter.end()

    threads = [threading.Thread(target=use) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not meter.in_use
    before = meter.idle_for_s
    meter.note()
    assert meter.idle_for_s <= before or before == 0
