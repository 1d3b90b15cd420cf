"""Certificates for servers of a test's own, made by `openssl`."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest


class Certificate(NamedTuple):
    """Files in PEM: what is shown, and its key."""

    file: Path
    key: Path


def self_signed(directory: Path, name: str) -> Certificate:
    """One that vouches for itself, for the host of this name; it can sign others."""
    return _made(directory, name, ["-x509"])


def issued(directory: Path, name: str, authority: Certificate) -> Certificate:
    """One for the host of this name, signed by the authority."""
    return _made(directory, name, ["-x509", "-CA", str(authority.file), "-CAkey", str(authority.key)])


def _made(directory: Path, name: str, signed: Sequence[str]) -> Certificate:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    count = len(list(directory.glob("*.pem")))
    made = Certificate(directory / f"{count}.pem", directory / f"{count}.key")
    what = ["-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
    names = ["-addext", f"subjectAltName=DNS:{name}"]
    command = [openssl, "req", *signed, *what, *names, "-keyout", str(made.key), "-out", str(made.file)]
    subprocess.run(command, check=True, capture_output=True)
    for path in (*made, directory):
        path.chmod(0o755)  # a server may run as another user
    return made
