# SPDX-License-Identifier: Apache-2.0
"""Write files whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def write_one(path: Path, text: str, mode: int = 0o600) -> None:
    """Replace a file atomically; most of what the lab writes holds a password, hence the mode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
    scratch.rename(path)


def write(folder: Path, contents: Mapping[str, str]) -> None:
    """Write ``{relative path: text}`` below a folder."""
    for name, text in contents.items():
        write_one(folder / name, text)
