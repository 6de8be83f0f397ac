# SPDX-License-Identifier: Apache-2.0
"""Sphinx configuration. The list of errors is generated from the code at each build."""

import inspect
import pathlib
import sys

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1] / folder) for folder in (".", "perf", "lab")]

from sriov_lb_tests import errors  # noqa: E402

project = "sriov-lb-tests"
copyright = "the sriov-lb-tests developers"
extensions = ["oslo_config.sphinxext", "openstackdocstheme"]
exclude_patterns = ["_generated"]
html_theme = "openstackdocs"
pygments_style = "native"
openstackdocs_auto_name = False
openstackdocs_auto_version = False
openstackdocs_use_storyboard = False


def _list_of_errors(app):
    """Write _generated/errors.rst: each error, what it means, what to do."""
    lines = ["::", ""]
    tree = inspect.cleandoc(errors.__doc__).partition("::\n\n")[2].partition("\n\nThe message")[0]
    lines += [f"    {line.removeprefix('    ')}" for line in tree.splitlines()] + [""]
    for name, cls in vars(errors).items():
        if inspect.isclass(cls) and issubclass(cls, errors.SriovLbError):
            lines += [name, f"    {inspect.cleandoc(cls.__doc__).splitlines()[0]}", ""]
            lines += [f"    *{cls.remedy.replace('*', '')}*", ""]
    folder = HERE / "_generated"
    folder.mkdir(exist_ok=True)
    (folder / "errors.rst").write_text("\n".join(lines))


def setup(app):
    app.connect("builder-inited", _list_of_errors)
