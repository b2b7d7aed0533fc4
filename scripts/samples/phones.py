"""Text -> phones of the International Phonetic Alphabet, by eSpeak NG from its unpacked packages."""

import os
import subprocess
from pathlib import Path

PACKAGES = ("espeak-ng", "espeak-ng-data", "libespeak-ng1", "libpcaudio0", "libsonic0")


class Phones:
    """Says what a text sounds like in a language.

    Args:
        root: where the packages were unpacked.
    """

    def __init__(self, root: Path) -> None:
        libraries = next(root.glob("usr/lib/*/libespeak-ng.so.1")).parent.resolve()
        self._command = [str((root / "usr/bin/espeak-ng").resolve()), f"--path={libraries}", "-q", "--ipa"]
        self._environment = {**os.environ, "LD_LIBRARY_PATH": str(libraries)}

    def __call__(self, text: str, language: str) -> str:
        """The phones, words apart."""
        said = subprocess.run(
            [*self._command, "-v", language, "--", text],
            env=self._environment,
            capture_output=True,
            check=True,
            encoding="utf-8",
        )
        return " ".join(said.stdout.split())
