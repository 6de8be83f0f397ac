# SPDX-License-Identifier: Apache-2.0
"""Adopt mode: a plain member with a clouds.yaml and ids, as on a stranger's cloud."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sriov_lb_tests.verdicts import onfile, record
from sriov_lb_tests.verdicts.model import Verdict

ON_FILE = Path(__file__).parent / "verdicts" / "16.0.0.yaml"
SMOKE = r"sriov_lb.*[\[,]smoke"


@pytest.fixture
def prepared(by_the_book):
    """The ids that a stranger's administrator would hand out."""
    return {
        "adopt_sriov_flavor_id": by_the_book.flavor("adopt-sriov", sriov_vip=True).id,
        "adopt_normal_flavor_id": by_the_book.flavor("adopt-normal").id,
        "adopt_vip_network_id": by_the_book.network.id,
        "adopt_vip_subnet_ids": ",".join(subnet.id for subnet in by_the_book.subnets),
    }


@pytest.fixture
def proxy(lab, made, wait):
    """The address of a server that others are reached through; it takes the amphora's key."""
    cloud = lab.cloud
    public = Path(lab.facts["amphora_key"] + ".pub").read_text()
    made(cloud.compute.create_keypair, cloud.compute.delete_keypair, name="proxy",
         public_key=public)  # fmt: skip
    port = made(cloud.network.create_port, cloud.network.delete_port, security_groups=[],
                network_id=lab.facts["id_network_access"], port_security_enabled=False)  # fmt: skip

    def gone(server):
        cloud.compute.delete_server(server)
        cloud.compute.wait_for_delete(server)

    made(cloud.compute.create_server, gone, name="proxy", key_name="proxy",
         image_id=lab.facts["id_image_guest"], flavor_id=lab.facts["id_flavor_guest"],
         networks=[{"port": port.id}])  # fmt: skip
    address = port.fixed_ips[0]["ip_address"]
    wait(lambda: lab.ssh(address, "echo here"), "here\n", 60)
    return address


def test_a_member_with_ids_proves_the_firewall(
    lab, prepared, proxy, workspace, inventory, wait, tmp_path
):
    """The guests are reached through an ssh proxy, as behind a bastion."""

    def logins():  # this one included
        count = "sudo journalctl --no-pager -t sshd | grep -c 'Accepted publickey'"
        return int(lab.ssh(proxy, count))

    before, came_before = inventory(), logins()
    clouds = yaml.safe_load(Path(lab.facts["clouds_yaml"]).read_text())["clouds"]
    own = tmp_path / "clouds.yaml"
    own.write_text(yaml.safe_dump({"clouds": {"stranger": clouds["lab-member"]}}))
    folder = workspace(
        {
            "mode": "adopt",
            "cloud": "stranger",
            "clouds_file": str(own),
            "run_id": "adopt",
            "guest_image": lab.facts["id_image_guest"],
            "guest_flavor": lab.facts["id_flavor_guest"],
            "guest_user": "debian",
            "guest_connect_method": "jump",
            "jump_host": proxy,
            "jump_user": "debian",
            "jump_key_file": lab.facts["amphora_key"],
            "access_network": "access",
            **prepared,
        },
        text="[identity]\nauth_version = v3\nuri_v3 = "
        + clouds["lab-member"]["auth"]["auth_url"]
        + "\n[auth]\nuse_dynamic_credentials = false\n[oslo_concurrency]\nlock_path = "
        + f"{tmp_path}/locks\n[sriov_lb]\n",
    )
    done = lab.exec(
        ["tempest", "run", "--regex", SMOKE, "--concurrency", "1"], cwd=folder, timeout=900,
        env={"OS_CLIENT_CONFIG_FILE": str(own), "OS_CLOUD": "stranger"},
    )  # fmt: skip
    print(done.stdout[-6000:])
    results = record.read(tmp_path / "artifacts" / "adopt")[1]
    verdicts = {}
    for result in results:
        verdicts.setdefault(result.verdict, []).append(result)
    found, on_file = onfile.of(results), onfile.read(ON_FILE)
    # What a member cannot look at is skipped; the rest is as an administrator has it.
    different = {
        test: said
        for test, said in found.items()
        if said != "SKIPPED" and on_file.get(test) != said
    }
    assert not different, done.stdout[-3000:]
    assert (done.returncode != 0) == bool(onfile.failures(found))
    assert logins() > came_before + 1, "nobody went through the proxy"
    passed = {result.requirement for result in verdicts[Verdict.PASS]}
    assert {"ENF-001", "ENF-002"} <= passed
    for result in verdicts[Verdict.SKIPPED]:
        assert result.reason
    # A member sees the load balancer go, not the instances that Octavia then deletes.
    wait(inventory, before, 60, 2)
