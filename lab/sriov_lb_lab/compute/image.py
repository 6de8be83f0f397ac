# SPDX-License-Identifier: Apache-2.0
"""An image's data: a small JSON descriptor that names a tree of the cache.

Glance stores and Nova downloads it like any image; only what the bytes mean is the lab's own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from sriov_lb_lab.compute.errors import ImageError

FORMAT = "sriov-lb-lab-tree"
# A descriptor is less than 200 bytes; a disk image that someone uploaded is not read to its end.
LIMIT = 64 * 1024


@dataclass(frozen=True)
class Descriptor:
    """What an image says.

    :param tree: name of the tree in the cache.
    :param user: login that gets the key pair.
    """

    tree: str
    user: str = "debian"


def parse(chunks: Iterable[bytes], image: str) -> Descriptor:
    """Understand an image's data.

    :param chunks: the data, as Glance's client yields it.
    :param image: the image's id, for the message.
    :raises ImageError: it is no descriptor.
    """
    data = b""
    for chunk in chunks:
        data += chunk
        if len(data) > LIMIT:
            break
    try:
        values = json.loads(data[:LIMIT])
        if values["format"] != FORMAT:
            raise ValueError(f"format is {values['format']!r}")
        return Descriptor(tree=values["tree"], user=values.get("user", Descriptor.user))
    except (ValueError, KeyError, TypeError) as failure:
        raise ImageError(
            f"image {image} is no {FORMAT!r} descriptor: {failure!r}",
            f'this lab boots images whose data is {{"format": "{FORMAT}", "tree": NAME}}',
        ) from failure
