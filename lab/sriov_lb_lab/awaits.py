# SPDX-License-Identifier: Apache-2.0
"""Wait for what a service needs, then become that service.

``python3 awaits.py tcp:HOST:PORT file:PATH socket:PATH ... -- COMMAND ...`` (standard library
only, because it stands before every service of the lab and should cost nothing).
"""

from __future__ import annotations

import os
import socket
import sys
import time


def met(condition: str) -> bool:
    """Whether ``tcp:HOST:PORT`` accepts, ``socket:PATH`` accepts or ``file:PATH`` exists."""
    kind, _, rest = condition.partition(":")
    if kind == "file":
        return os.path.exists(rest)
    if kind == "tcp":
        address, _, port = rest.rpartition(":")
        family, target = socket.AF_INET, (address, int(port))
    elif kind == "socket":
        family, target = socket.AF_UNIX, rest
    else:
        raise SystemExit(f"awaits: {condition!r}: want tcp:HOST:PORT, socket:PATH or file:PATH")
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(2)
        return probe.connect_ex(target) == 0


def main(argv: list[str]) -> None:
    """Wait for each condition in turn, saying which, then exec the command."""
    split = argv.index("--")
    for condition in argv[:split]:
        said = False
        while not met(condition):
            if not said:
                print(f"awaits: waiting for {condition}", flush=True)
                said = True
            # The condition is another process's doing and has no event to wait on.
            time.sleep(0.2)
    command = argv[split + 1 :]
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
