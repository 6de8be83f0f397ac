# SPDX-License-Identifier: Apache-2.0
"""What the user wrote wrong, or the cloud lacks, is said in words before anything is made."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

ONE = "TestVipFirewall.test_other_ports_ipv4"

# What is wrong: (options of [sriov_lb], other sections, what the answer must say).
CASES = {
    "password": (
        {}, "[auth]\nadmin_password = wrong\n",
        ("AuthenticationFailed: Keystone at http://198.18.0.1:5000/v3 refused", "user 'admin'"),
    ),
    "address": (
        {}, "[identity]\nuri_v3 = http://198.18.0.1:59999/v3\n",
        ("ApiUnreachable: No usable answer at http://198.18.0.1:59999/v3", "Remedy: Check that"),
    ),
    "image tag": (
        {"amphora_image_tag": "no-such-tag"}, "",
        ("NotPrepared", "No active image carries the tag 'no-such-tag'."),
    ),
    "two names": (
        {"guest_image": "no-such-image", "sriov_hosts": "compute-9"}, "",
        ("2 of what the options name are missing", "Image 'no-such-image' ([sriov_lb] guest_image)",
         "Not a living compute host: compute-9", "[sriov_lb] sriov_hosts"),
    ),
    "two options": (
        {"amphora_key_file": "/no/such/key", "mode": "adopt"}, "",
        ("InvalidConfiguration: 4 options", "[sriov_lb] amphora_key_file is '/no/such/key'",
         "[sriov_lb] adopt_vip_network_id is not set"),
    ),
}  # fmt: skip


def refused(lab, inventory, folder, words):
    """Run one test in a workspace: it must end with these words and have made nothing."""
    before = inventory()
    done = lab.exec(["tempest", "run", "--regex", ONE, "--concurrency", "1"], cwd=folder)
    said = done.stdout + done.stderr
    assert done.returncode != 0, said
    for word in words:
        assert word in said, said[-4000:]
    assert inventory() == before


@pytest.mark.parametrize("case", CASES)
def test_wrong_input_is_named_and_nothing_is_made(lab, workspace, inventory, case):
    options, sections, words = CASES[case]
    folder = workspace(options)
    with (folder / "etc" / "tempest.conf").open("a") as conf:
        conf.write(sections)
    refused(lab, inventory, folder, words)


# An entry of clouds.yaml that leads elsewhere, and what the answer must say.
CLOUDS = {
    "no Octavia there": (
        {"load_balancer_endpoint_override": "http://198.18.0.1:59998"},
        ("ApiUnreachable", "the load balancing API"),
    ),
    "Octavia is something else": (
        # Keystone answers with a version document, but not with one of Octavia's.
        {"load_balancer_endpoint_override": "http://198.18.0.1:5000"},
        ("ApiUnreachable", "does not answer with Octavia's version document"),
    ),
}


@pytest.mark.parametrize("case", CLOUDS)
def test_an_endpoint_that_is_not_octavia_is_named(lab, workspace, inventory, tmp_path, case):
    changes, words = CLOUDS[case]
    clouds = yaml.safe_load(Path(lab.facts["clouds_yaml"]).read_text())
    for cloud in clouds["clouds"].values():
        cloud.update(changes)
    own = tmp_path / "clouds.yaml"
    own.write_text(yaml.safe_dump(clouds))
    folder = workspace(
        {"clouds_file": str(own), "cloud": "lab-member", "admin_cloud": "lab-admin"}
    )
    refused(lab, inventory, folder, words)
