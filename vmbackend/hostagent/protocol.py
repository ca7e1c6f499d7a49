"""The control socket's protocol: JSON objects, one a line.

A connection carries one request, `{"token", "op", ...}`, answered by any number of `{"event": MachineEvent}` and
then by `{"ok": true, "result"}` or `{"ok": false, "kind", "error"}`.

- `status` → a MachineStatus.
- `events` → how it stands and whatever changes, as events until the client hangs up or the hostagent ends.
- `start` → events until the machine has settled, then its status.
- `stop {force, timeout_s}` → events, then null once the machine is off; the hostagent ends.
- `save {timeout_s}` → null once the machine is saved and off, or in a sentence why it was powered off instead; the
  hostagent ends.
- `pause`, `resume` → null once the guest stands still, or goes on.
- `take_snapshot {name}`, `remove_snapshot {name}` → null; of the data disk.
- `usage` → a MachineUsage.
- `shares` → `[{host_path, guest_path, read_only, mounted}]`.
- `forwards` → `[{protocol, address, port, guest_port}]`, the published ports offered now.
- `follow_settings` → the keys of the saved settings that have to wait for a restart; the others are followed.
- `ssh` → `{port, user}`, where the guest's SSH server is reached with the machine's keys.

`hostagent.json` has the address to connect to and the token, which matters where the address is a loopback port.
"""

import json
from typing import Any

MAX_LINE_BYTES = 1024 * 1024


def encode(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """Raises ValueError for anything but a complete object."""
    message = json.loads(line)
    if not isinstance(message, dict) or not line.endswith(b"\n"):
        raise ValueError("not a complete message")
    return message
