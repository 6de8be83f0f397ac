# SPDX-License-Identifier: Apache-2.0
"""How a little server that travels to a guest as an argument outlives the command."""

#: Python source, to be put where the program has bound its ports: the command ends, and whoever
#: gave it knows that the server answers. Needs ``os``.
DETACH = """\
if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
null = os.open(os.devnull, os.O_RDWR)
for descriptor in (0, 1, 2):
    os.dup2(null, descriptor)
"""
