"""Guest images that are nothing but what the host looks at: a contract and three small files."""

import hashlib
import json
from pathlib import Path

CONTENTS = {"kernel": b"k", "initramfs": b"ii", "system": b"sss"}


def make_guest_image(directory: Path, version: str = "1", **changes: object) -> Path:
    """An image in a new folder; `changes` replace parts of its contract."""
    directory.mkdir(parents=True)
    files = {}
    for role, content in CONTENTS.items():
        (directory / role).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        files[role] = {"name": role, "sha256": digest, "size_bytes": len(content)}
    contract = {
        "schema": 1,
        "version": version,
        "arch": "x86_64",
        "files": files,
        "cmdline": "quiet",
        "cmdline_tcg": "",
        "machines": ["microvm"],
        "system_serial": "s",
        "data_serial": "d",
        "fw_cfg": {},
        "network": {"address": "10.0.2.15/24", "gateway": "10.0.2.2", "dns": "10.0.2.3"},
        "ssh": {"port": 22, "user": "root", "ready": "listening"},
        "ports_channel": "ports",
        "grow_data_disk": "grow",
        "engine_socket": "/e",
        "ready": "ready",
        "poweroff": "poweroff",
        **changes,
    }
    (directory / "contract.json").write_text(json.dumps(contract))
    return directory


def edit_contract(directory: Path, **changes: object) -> None:
    path = directory / "contract.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
