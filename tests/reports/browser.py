"""Chromium without a window, for tests of pages."""

import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-proxy-server"),
)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on the PATH"
)


def dump(address: str, folder: Path, *, budget_ms: int = 10_000) -> str:
    """Return the document as the browser holds it after its timers have run.

    Args:
        address: Of the page.
        folder: For the browser's profile, which one test keeps.
        budget_ms: Time of timers, which do not wait in earnest.
    """
    options = [f"--user-data-dir={folder / 'profile'}", "--window-size=1400,2000", f"--virtual-time-budget={budget_ms}"]
    command = [str(CHROMIUM), *_FLAGS, *options, "--dump-dom", address]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
