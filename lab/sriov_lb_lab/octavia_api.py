# SPDX-License-Identifier: Apache-2.0
"""WSGI entry of the genuine Octavia API.

Octavia's own entry point reads ``sys.argv``, which under uWSGI belongs to uWSGI, and has moved
between releases; its application factory is the same in all of them.
"""

from __future__ import annotations

import os

from octavia.api import app

# argv[0] is the program, as everywhere.
application = app.setup_app(
    argv=["octavia-api", "--config-file", os.environ["SRIOV_LB_LAB_OCTAVIA_CONF"]]
)
