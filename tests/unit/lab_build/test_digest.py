# SPDX-License-Identifier: Apache-2.0
"""Names of trees follow from what goes into them, and from nothing else."""

import pytest

from sriov_lb_lab.build import digest


def test_inputs_in_any_order_give_one_digest():
    one = digest.of_inputs({"a": 1, "b": ["x", "y"]})
    assert one == digest.of_inputs({"b": ["x", "y"], "a": 1})
    assert one != digest.of_inputs({"a": 1, "b": ["y", "x"]})
    assert len(one) == digest.LENGTH and int(one, 16) >= 0


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "files" / "etc").mkdir(parents=True)
    (tmp_path / "files" / "etc" / "conf").write_text("a\n")
    (tmp_path / "setup.sh").write_text("#!/bin/sh\n")
    (tmp_path / "link").symlink_to("files/etc/conf")
    return tmp_path


def test_a_folder_keeps_its_digest(folder):
    before = digest.of_folder(folder)
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "x.pyc").write_bytes(b"x")
    (folder / "setup.sh~").write_text("old")
    (folder / "setup.sh").chmod(0o644)
    assert digest.of_folder(folder) == before


@pytest.mark.parametrize("change", [
    lambda folder: (folder / "setup.sh").chmod(0o755),
    lambda folder: (folder / "setup.sh").write_text("#!/bin/bash\n"),
    lambda folder: (folder / "setup.sh").rename(folder / "setup2.sh"),
    lambda folder: (folder / "more").write_text(""),
    lambda folder: ((folder / "link").unlink(), (folder / "link").symlink_to("elsewhere")),
])
def test_a_changed_folder_changes_its_digest(folder, change):
    before = digest.of_folder(folder)
    change(folder)
    assert digest.of_folder(folder) != before
