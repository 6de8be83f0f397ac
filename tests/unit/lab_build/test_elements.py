# SPDX-License-Identifier: Apache-2.0
"""Octavia's image elements: what they want, and in which order."""

import pytest

from sriov_lb_lab.build import elements, roots
from sriov_lb_lab.errors import BuildError


def write(path, text="#!/bin/sh\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def top(tmp_path):
    agent, haproxy = tmp_path / "agent", tmp_path / "haproxy"
    source = agent / "install.d" / "agent-source-install"
    write(source / "75-agent-install")
    write(source / "agent.service", "[Unit]\n")
    write(agent / "install.d" / "agent-package-install" / "75-agent-package")
    write(agent / "post-install.d" / "11-enable")
    write(agent / "static" / "usr" / "local" / "bin" / "tool")
    write(agent / "package-installs.yaml", "socat:\n\ngcc:\n  uninstall: True\n"
                                           "libffi-dev:\n  build-only: True\n"
                                           "nftables:\n  when: USE = True\n")
    write(haproxy / "install.d" / "76-haproxy")
    write(haproxy / "post-install.d" / "20-tune")
    write(haproxy / "finalise.d" / "99-last")
    write(haproxy / "init-scripts" / "systemd" / "x.service", "[Unit]\n")
    write(haproxy / "package-installs.json", '{"haproxy": null}')
    write(haproxy / "README.rst", "text\n")
    return tmp_path


def test_scripts_run_phase_by_phase_and_by_name_across_elements(top):
    plan = elements.plan(top, ("haproxy", "agent"))
    assert [str(script.path) for script in plan.scripts] == [
        "agent/install.d/agent-source-install/75-agent-install",
        "haproxy/install.d/76-haproxy",
        "agent/post-install.d/11-enable",
        "haproxy/post-install.d/20-tune",
        "haproxy/finalise.d/99-last",
    ]


def test_files_units_and_packages_are_found(top):
    plan = elements.plan(top, ("haproxy", "agent"))
    assert [str(path) for path in plan.static] == ["agent/static"]
    assert [path.name for path in plan.units] == ["x.service"]
    assert plan.packages == {"socat", "nftables", "haproxy"}


def test_a_release_without_an_element_is_refused(top):
    with pytest.raises(BuildError, match="missing certs-ramfs"):
        elements.plan(top, ("agent", "certs-ramfs"))


def test_every_package_left_out_has_a_reason_and_is_left_out():
    text = (roots.ELEMENTS / "amphora" / "left-out.txt").read_text()
    reasons = elements.left_out(text)
    assert len(reasons) > 20
    assert all(reasons.values()), [name for name, why in reasons.items() if not why]
    assert not reasons.keys() & set(roots.AMPHORA_BASE.packages())
