# SPDX-License-Identifier: Apache-2.0
"""What a client needs to become a load generator, and how it gets there.

A guest has Python 3.8 or newer, no pip and no internet, and its Python need not be ours: so
nothing compiled is carried. The whole of ``sriov_lb_perf.agent`` (plain source, standard
library only) goes through stdin into a ``python3 -c BOOTSTRAP`` and is imported from memory;
nothing is written to the guest's disk.
"""

from __future__ import annotations

import importlib.resources
import json

from . import agent

PACKAGE = "sriov_lb_agent"  # its name where it runs

# Reads one line with a length, that many bytes of JSON {"modules": {name: source}}, imports them
# and serves. os.read and not sys.stdin: a buffered reader would swallow the first jobs.
BOOTSTRAP = """\
import os, sys
if sys.version_info < (3, 8):
    os.write(1, ('{"report": "error", "kind": "python", "message": "python3 is %s, 3.8 or newer '
                 'is needed"}\\n' % sys.version.split()[0]).encode())
    sys.exit(3)
import importlib.abc, importlib.util, json
def take(until):
    data = b''
    while not until(data):
        piece = os.read(0, 1)
        if not piece:
            sys.exit(4)
        data += piece
    return data
size = int(take(lambda data: data.endswith(b'\\n')))
data = b''
while len(data) < size:
    piece = os.read(0, size - len(data))
    if not piece:
        sys.exit(4)
    data += piece
modules = json.loads(data)['modules']
class Carried(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name in modules:
            return importlib.util.spec_from_loader(name, self, is_package='.' not in name)
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        name = module.__name__
        exec(compile(modules[name], '<carried ' + name + '>', 'exec'), module.__dict__)
sys.meta_path.insert(0, Carried())
from sriov_lb_agent.serve import serve
sys.exit(serve())
"""


def command(python: str = "python3") -> list[str]:
    """The argv that turns a client into a generator once :func:`cargo` is on its stdin.

    ``-I`` keeps the guest's PYTHONPATH and user site away; ``-S`` saves start-up time.
    """
    return [python, "-I", "-S", "-c", BOOTSTRAP]


def cargo() -> bytes:
    """The bytes to write to stdin first: length line and the modules."""
    modules = {}
    for entry in importlib.resources.files(agent).iterdir():
        if entry.name.endswith(".py"):
            stem = entry.name[:-3]
            name = PACKAGE if stem == "__init__" else f"{PACKAGE}.{stem}"
            modules[name] = entry.read_text(encoding="utf-8")
    data = json.dumps({"modules": modules}).encode()
    return b"%d\n" % len(data) + data
