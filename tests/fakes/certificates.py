"""A certificate authority of our own."""

from __future__ import annotations

import subprocess
from pathlib import Path


def make_certificates(place: Path, names: str) -> None:
    """ca.crt, and cert.pem with key.pem signed by it for `names`, as in "IP:127.0.0.1,DNS:localhost"."""
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    _openssl(place, "req", "-x509", *key, "-subj", "/CN=Test authority", "-out", "ca.crt", "-keyout", "ca.key")
    _openssl(place, "req", *key, "-subj", "/CN=registry", "-out", "request", "-keyout", "key.pem")
    (place / "extensions").write_text(f"subjectAltName={names}\n")
    sign = "x509 -req -in request -CA ca.crt -CAkey ca.key -CAcreateserial -extfile extensions -out cert.pem"
    _openssl(place, *sign.split())


def _openssl(where: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=where, check=True, capture_output=True)
