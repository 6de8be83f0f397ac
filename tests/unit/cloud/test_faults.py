# SPDX-License-Identifier: Apache-2.0
from sriov_lb_tests.cloud import faults, orphans

ID = "0169ec32-205f-4a35-a3c1-c7f0eef737e6"
OTHER = "85f2e121-ace3-4368-970e-6e0623f29d09"


def test_the_tree_as_lines_names_only_what_is_not_well():
    tree = {
        "name": "lb",
        "provisioning_status": "ACTIVE",
        "operating_status": "ONLINE",
        "listeners": [
            {
                "name": "web",
                "provisioning_status": "ERROR",
                "operating_status": "ONLINE",
                "pools": [
                    {
                        "name": "p",
                        "provisioning_status": "ACTIVE",
                        "operating_status": "ERROR",
                        "members": [{"id": "m1", "provisioning_status": "ERROR"}],
                    }
                ],
            }
        ],
    }
    assert faults.flat(tree) == [
        "listener web: ERROR/ONLINE",
        "pool p: ACTIVE/ERROR",
        "member m1: ERROR/None",
    ]


def watch(cloud, clouds, thing):
    server = cloud.compute._create("server", {"name": "amphora", "status": "ERROR"})
    server.fault = {"message": "No valid host was found."}
    cloud.load_balancer._create(
        "amphora", {"loadbalancer_id": "lb", "compute_id": server.id, "status": "BOOTING"}
    )
    action = thing(
        action="attach_interface",
        message="Error",
        request_id="r1",
        events=[thing(result="Error", start_time="2", details="Failed to claim PCI device")],
    )
    good = thing(action="create", message=None)
    cloud.compute.server_actions = lambda server_id: [good, action]
    cloud.compute.get_server_action = lambda request, server_id: action
    return faults.Watch(clouds.admin, "lb"), server


def test_a_watch_keeps_what_it_saw_of_an_amphora_that_is_gone(cloud, clouds, thing):
    seen, server = watch(cloud, clouds, thing)
    seen.look()
    cloud.compute.store["server"].clear()
    cloud.load_balancer.store["amphora"].clear()
    seen.look()
    assert seen.faults() == [
        "No valid host was found.",
        "attach_interface: Failed to claim PCI device",
    ]


def test_a_plain_member_sees_no_amphorae_and_is_told(cloud, clouds, monkeypatch):
    monkeypatch.setattr(faults, "status_tree", lambda *a: {"provisioning_status": "ERROR"})
    text = faults.explain(clouds.member, "lb", faults.Watch(None, "lb"))
    assert "ERROR" in text and "administrator only" in text


def test_orphans_are_told_from_what_still_has_a_load_balancer(cloud, clouds):
    lb = cloud.load_balancer._create("load_balancer", {"name": "lb"})
    cloud.load_balancer.store["load_balancer"] = {ID: lb}
    lb.id = ID
    for name in (
        f"octavia-lb-{ID}",
        f"octavia-lb-{OTHER}",
        f"octavia-lb-vrrp-{OTHER}",
        "octavia-lb-of-my-own",
        "somebody-elses",
    ):
        cloud.network._create("port", {"name": name})
    cloud.network._create("security_group", {"name": f"lb-{OTHER}"})
    cloud.compute._create("server", {"name": f"amphora-{OTHER}"})
    found = {(item.service, item.name) for item in orphans.find(clouds.admin)}
    assert found == {
        ("Neutron", f"octavia-lb-{OTHER}"),
        ("Neutron", f"octavia-lb-vrrp-{OTHER}"),
        ("Neutron", f"lb-{OTHER}"),
        ("Nova", f"amphora-{OTHER}"),
    }
