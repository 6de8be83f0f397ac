# SPDX-License-Identifier: Apache-2.0
"""Names for trees, derived from what goes into them.

The inputs of a tree are known before anything is fetched, so whether a tree is there already can be
told without a network.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

LENGTH = 12


def of_inputs(inputs: Mapping[str, Any]) -> str:
    """Digest of a JSON-able mapping, as hexadecimal digits; the order of its keys is irrelevant."""
    text = json.dumps(inputs, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]


def of_text(text: str) -> str:
    """Digest of one text."""
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]


def of_folder(folder: pathlib.Path) -> str:
    """Digest of the regular files and links below a folder: path, executable or not, content.

    Byte code, editors' leftovers and the order in which the file system lists them do not count.
    """
    state = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if "__pycache__" in path.parts or path.name.endswith("~"):
            continue
        name = str(path.relative_to(folder))
        if path.is_symlink():
            state.update(f"link\0{name}\0{os.readlink(path)}\0".encode())
        elif path.is_file():
            executable = bool(path.stat().st_mode & 0o111)
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            state.update(f"file\0{name}\0{executable}\0{content}\0".encode())
    return state.hexdigest()[:LENGTH]
