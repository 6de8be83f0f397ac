# SPDX-License-Identifier: Apache-2.0
"""Sphinx configuration. Errors and policy are written from the code at each build."""

import inspect
import pathlib
import sys

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1] / folder) for folder in (".", "perf", "lab")]

from sriov_lb_tests import errors  # noqa: E402
from sriov_lb_tests.policy.model import Policy  # noqa: E402

project = "sriov-lb-tests"
copyright = "the sriov-lb-tests developers"
extensions = ["oslo_config.sphinxext"]
exclude_patterns = ["_generated"]
html_theme = "alabaster"
html_theme_options = {
    "description": "Tests of SR-IOV load balancers in OpenStack Octavia",
    "fixed_sidebar": True,
    "page_width": "1100px",
}


def _list_of_errors(app):
    """Write _generated/errors.rst: each error, what it means, what to do."""
    lines = ["::", ""]
    tree = inspect.cleandoc(errors.__doc__).partition("::\n\n")[2].partition("\n\nThe message")[0]
    lines += [f"    {line.removeprefix('    ')}" for line in tree.splitlines()] + [""]
    for name, cls in vars(errors).items():
        if inspect.isclass(cls) and issubclass(cls, errors.SriovLbError):
            lines += [name, f"    {inspect.cleandoc(cls.__doc__).splitlines()[0]}", ""]
            lines += [f"    *{cls.remedy.replace('*', '')}*", ""]
    _generate("errors.rst", lines)


def _clauses_of_the_policy(app):
    """Write _generated/policy.rst: the clauses of the example that policy.rst describes."""
    lines = [".. list-table::", "   :header-rows: 1", "   :widths: 22 14 32 32", ""]
    rows = [("Clause", "Packet", "Because", "Source")]
    rows += [(c.name, c.promise.value, c.reason, c.source) for c in _example().clauses]
    for row in rows:
        # What looks like markup in these sentences is none.
        first, *others = (cell.replace("*", "\\*").replace("|", "\\|") for cell in row)
        lines += [f"   * - {first}", *(f"     - {cell}" for cell in others)]
    _generate("policy.rst", [*lines, ""])


def _example():
    def listener(name, protocol, port, **more):
        return {"name": name, "protocol": protocol, "protocol_port": port, **more}

    return Policy.of(
        {"vip_address": "203.0.113.10", "additional_vips": [{"ip_address": "2001:db8:113::10"}]},
        [
            listener("web", "HTTP", 80, allowed_cidrs=["192.0.2.0/24", "2001:db8:2::/64"]),
            listener("dns", "UDP", 53),
            listener("metrics", "PROMETHEUS", 8088),
            listener("off", "TCP", 25, admin_state_up=False),
        ],
        pools=[{"session_persistence": {"type": "SOURCE_IP"}}],
        own="203.0.113.11",
        peers=["203.0.113.12"],
    )


def _generate(name, lines):
    folder = HERE / "_generated"
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join(lines))


def setup(app):
    app.connect("builder-inited", _list_of_errors)
    app.connect("builder-inited", _clauses_of_the_policy)
