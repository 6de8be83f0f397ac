# SPDX-License-Identifier: Apache-2.0
"""The list of packages. Everything else about packaging is in setup.cfg."""

from setuptools import find_namespace_packages, setup

# import name -> folder
FOLDERS = {
    "sriov_lb_tests": "sriov_lb_tests",
    "sriov_lb_perf": "perf/sriov_lb_perf",
    "sriov_lb_lab": "lab/sriov_lb_lab",
}

packages = []
for name, folder in FOLDERS.items():
    packages.append(name)
    # Namespace packages too: a folder that holds only data needs no __init__.py. That includes
    # sriov_lb_tests/scenarios, a link to the YAML files that tests and perf share.
    packages += [
        f"{name}.{sub}" for sub in find_namespace_packages(folder, exclude=["*__pycache__*"])
    ]

setup(packages=packages, package_dir=FOLDERS)
