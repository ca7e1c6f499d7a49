"""A paramiko transport that reaches unix sockets in the guest and says when it is lost.

paramiko has no `direct-streamlocal@openssh.com` (OpenSSH's PROTOCOL, section 2.4). `open_streamlocal` does for
it what `Transport.open_channel` does for `direct-tcpip`, with the same internals.
"""

import socket
import threading
from collections.abc import Callable
from typing import Any

import paramiko
from paramiko.common import DEFAULT_MAX_PACKET_SIZE, cMSG_CHANNEL_OPEN

# Enough for a fast stream not to wait for the guest's scheduler, small enough for 200 streams at once.
_WINDOW_BYTES = 1024 * 1024
_UNHEARD_OF_S = 60.0


class GuestTransport(paramiko.Transport):
    """Calls `on_lost` from its own thread once, when the connection is gone for whatever reason."""

    # How often the idle reader wakes up to look whether it should end or send a keepalive; paramiko's tenth of a
    # second costs battery. `GuestConnection.close` does not wait for it: it shuts the socket down.
    _active_check_timeout = 5.0

    # The cheapest of what both sides have: the guest may be emulated. The peer is on this computer and its key is
    # known, so nothing recorded today is worth a post-quantum exchange.
    _preferred_kex = ("curve25519-sha256@libssh.org",)
    _preferred_keys = ("ssh-ed25519",)
    _preferred_ciphers = ("aes128-gcm@openssh.com", "aes128-ctr")
    _preferred_macs = ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-256")

    # What `open_streamlocal` uses of paramiko's own.
    active: bool
    _channels: Any
    _next_channel: Callable[[], int]
    _send_user_message: Callable[[paramiko.Message], None]

    def __init__(self, stream: socket.socket, on_lost: Callable[[], None]) -> None:
        super().__init__(stream, default_window_size=_WINDOW_BYTES)
        self._on_lost = on_lost
        self._channels_changed = threading.Condition()

    def run(self) -> None:
        try:
            super().run()
        finally:
            # paramiko wakes those who wait for a channel only when the connection ends by itself, not by `close`.
            with self.lock:
                waiting = list(self.channel_events.values())
            for opened in waiting:
                opened.set()
            self._tell_channels_changed()
            self._on_lost()

    def _unlink_channel(self, number: int) -> None:
        super()._unlink_channel(number)  # type: ignore[misc]
        self._tell_channels_changed()

    def _tell_channels_changed(self) -> None:
        with self._channels_changed:
            self._channels_changed.notify_all()

    def abandon_openings(self) -> None:
        """Whoever waits for a stream to be opened hears at once that it will not be."""
        with self.lock:
            waiting = dict(self.channel_events)
            for number in waiting:
                self._channels.delete(number)
        for opened in waiting.values():
            opened.set()

    def wait_for_channels(self) -> None:
        """Until the last stream has been closed, or the connection is gone."""
        with self._channels_changed:
            # One that nobody holds any more goes without a word.
            while self.active and len(self._channels):
                self._channels_changed.wait(_UNHEARD_OF_S)

    def open_streamlocal(
        self, path: str, timeout_s: float, slow_after_s: float = 0.0, on_slow: Callable[[], None] = lambda: None
    ) -> paramiko.Channel:
        """Connect to a unix socket in the guest; `on_slow` is called when that takes longer than `slow_after_s`.

        Raises TimeoutError when the guest is silent, paramiko.SSHException when it refuses or is lost.
        """
        opened = threading.Event()
        with self.lock:
            if not self.active:
                raise paramiko.SSHException("the SSH connection is gone")
            number = self._next_channel()
            channel: Any = paramiko.Channel(number)
            self._channels.put(number, channel)
            self.channel_events[number] = opened
            self.channels_seen[number] = True
            channel._set_transport(self)
            channel._set_window(_WINDOW_BYTES, DEFAULT_MAX_PACKET_SIZE)
        request = paramiko.Message()
        request.add_byte(cMSG_CHANNEL_OPEN)
        request.add_string("direct-streamlocal@openssh.com")
        request.add_int(number)
        request.add_int(_WINDOW_BYTES)
        request.add_int(DEFAULT_MAX_PACKET_SIZE)
        request.add_string(path)
        request.add_string("")  # reserved
        request.add_int(0)  # reserved
        self._send_user_message(request)
        # Set on success, on refusal, and when the transport ends.
        if not opened.wait(slow_after_s):
            on_slow()
        if not opened.wait(timeout_s - slow_after_s):
            raise TimeoutError(f"no answer within {timeout_s:g} s")
        confirmed: paramiko.Channel | None = self._channels.get(number)
        if not self.active or confirmed is None:
            raise paramiko.SSHException("the guest refused, or is gone")
        return confirmed
