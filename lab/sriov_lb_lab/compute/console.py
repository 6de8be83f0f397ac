# SPDX-License-Identifier: Apache-2.0
"""The console log of an instance."""

from __future__ import annotations

import os
from pathlib import Path

# What Nova's libvirt driver hands out at most, too.
SHOWN = 100 * 1024
KEPT = 1024 * 1024


def path(folder: Path) -> Path:
    """Where it is, ``folder`` being the instance's folder."""
    return folder / "console.log"


def tail(folder: Path, limit: int = SHOWN) -> bytes:
    """Its last ``limit`` bytes; empty before the first boot."""
    try:
        with path(folder).open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - limit))
            return log.read()
    except FileNotFoundError:
        return b""


def trim(folder: Path) -> None:
    """Keep the last MiB only. To be called while nobody writes to it."""
    if path(folder).exists() and path(folder).stat().st_size > KEPT:
        path(folder).write_bytes(tail(folder, KEPT))
