"""An engine on a host with another firewall."""

from __future__ import annotations

from pathlib import Path

from app.services import diagnostics
from app.services.engines import RemoteBackend
from tests.harness import RunningEngine

WALL = "add table ip wall; add chain ip wall gate { type filter hook forward priority 0; policy drop; }"


def test_the_doctor_names_a_firewall_in_the_way(tmp_path: Path) -> None:
    script = f"ip link set lo up; nft '{WALL}'; exec \"$@\""
    engine = RunningEngine(tmp_path, prefix=("unshare", "--net", "sh", "-c", script, "sh"))
    try:
        checks = list(diagnostics.engine_warnings(RemoteBackend(engine.host)))
        [check] = [check for check in checks if "firewall" in check.sentence]
        assert check.verdict == "warn"
        assert "The chain gate of the firewall table ip wall drops" in check.sentence
        assert check.remedy.startswith("sudo nft insert rule ip wall gate iifname")
        assert b"table ip wall" in engine.docker("info").stderr
    finally:
        engine.stop()
        engine.restart()
        engine.close()
