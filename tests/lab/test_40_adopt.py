# SPDX-License-Identifier: Apache-2.0
"""Adopt mode: a plain member with a clouds.yaml and ids, as on a stranger's cloud."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

SMOKE = r"sriov_lb.*[\[,]smoke"


@pytest.fixture
def prepared(lab):
    """What an administrator makes once, following Octavia's guide; removed afterwards."""
    cloud, do = lab.cloud, lab.inside
    undo = []

    def made(function, delete, *arguments, **options):
        thing = do(function, *arguments, **options)
        undo.append((delete, thing))
        return thing

    compute, balancing, network = cloud.compute, cloud.load_balancer, cloud.network
    aggregate = made(compute.create_aggregate, compute.delete_aggregate, name="adopted")
    for host in lab.facts["sriov_hosts"].split(","):
        do(compute.add_host_to_aggregate, aggregate, host)
    do(compute.set_aggregate_metadata, aggregate, {"sriov-nic": "true"})
    flavor = made(compute.create_flavor, compute.delete_flavor, name="adopted", ram=1024, disk=3,
                  vcpus=1, is_public=False)  # fmt: skip
    do(compute.create_flavor_extra_specs, flavor, {"sriov-nic": "true"})
    do(compute.flavor_add_tenant_access, flavor, lab.facts["id_project_service"])
    ids = {}
    for name, sriov in (("adopt_sriov_flavor_id", True), ("adopt_normal_flavor_id", False)):
        data = {"compute_flavor": flavor.id}
        data = json.dumps({"compute_flavor": flavor.id} | ({"sriov_vip": True} if sriov else {}))
        profile = made(balancing.create_flavor_profile, balancing.delete_flavor_profile,
                       name=name, provider_name="amphora", flavor_data=data)  # fmt: skip
        ids[name] = made(balancing.create_flavor, balancing.delete_flavor, name=name,
                         flavor_profile_id=profile.id, enabled=True).id  # fmt: skip
    vip = made(network.create_network, network.delete_network, name="adopted", shared=True,
               provider_network_type="flat", provider_physical_network="public")  # fmt: skip
    subnets = [
        do(network.create_subnet, network_id=vip.id, ip_version=version, cidr=cidr,
           enable_dhcp=False, gateway_ip=None)
        for version, cidr in ((4, "203.0.113.0/24"), (6, "2001:db8:7::/64"))
    ]  # fmt: skip
    ids["adopt_vip_network_id"] = vip.id
    ids["adopt_vip_subnet_ids"] = ",".join(subnet.id for subnet in subnets)
    yield ids
    for host in lab.facts["sriov_hosts"].split(","):
        do(compute.remove_host_from_aggregate, aggregate, host)
    for delete, thing in reversed(undo):
        do(delete, thing)


def test_a_member_with_ids_proves_the_firewall(
    lab, prepared, workspace, inventory, wait, tmp_path
):
    before = inventory()
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
    assert done.returncode == 0, done.stdout[-3000:]
    record = tmp_path / "artifacts" / "adopt" / "verdicts.jsonl"
    results = [json.loads(line) for line in record.read_text().splitlines()]
    verdicts = {}
    for result in results:
        verdicts.setdefault(result["verdict"], []).append(result)
    assert set(verdicts) <= {"PASS", "SKIPPED"}
    passed = {result["requirement"] for result in verdicts["PASS"]}
    assert {"ENF-001", "ENF-002"} <= passed
    for result in verdicts["SKIPPED"]:
        assert result["reason"]
    # A member sees the load balancer go, not the instances that Octavia then deletes.
    wait(inventory, before, 60, 2)
