# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json

import pytest

from sriov_lb_tests import errors
from sriov_lb_tests.cloud import placement, site, twin
from sriov_lb_tests.cloud.connect import Clouds
from sriov_lb_tests.cloud.ledger import Ledger


def settings(folder, **kw):
    return site.Settings(
        access_network="access",
        guest_image="guest",
        guest_flavor="small",
        key_folder=folder,
        vip=site.NetSettings("public", "flat", 0, "203.0.113.0/24", "2001:db8:113::/64"),
        member=site.NetSettings("members", "vlan", 114, "198.51.100.0/24", ""),
        aggregate_properties={"sriov-nic": "true"},
        flavor_properties={"hw_rng:allowed": "True"},
        lb_build_timeout=1,
        lb_change_timeout=1,
        interval=0.001,
        **kw,
    )


@pytest.fixture
def book(tmp_path):
    ledger = Ledger(tmp_path / "journal", "r1")
    yield ledger
    ledger.close()


@pytest.fixture
def furnished(cloud, thing):
    """A cloud with what an administrator site stands on."""
    cloud.network._create("network", {"name": "access"})
    access = cloud.network.networks()[0]
    cloud.network._create("subnet", {"network_id": access.id, "ip_version": 4})
    for host, alive, mappings in (
        ("h1", True, {"public": ["pf"]}),
        ("h2", False, {"public": ["pf"]}),
        ("h3", True, {"other": ["pf"]}),
    ):
        cloud.network._create(
            "agent",
            {
                "agent_type": "NIC Switch agent",
                "host": host,
                "is_alive": alive,
                "configuration": {"device_mappings": mappings},
            },
        )
    cloud.identity._create("project", {"name": "service"})
    cloud.image._create("image", {"name": "guest"})
    cloud.compute._create("flavor", {"name": "small"})
    return cloud


@pytest.fixture
def made(furnished, clouds, book, tmp_path):
    return site.AdminSite(settings(tmp_path), clouds, book)


def test_the_three_steps_of_the_document(made, furnished):
    flavor_id = made.sriov_flavor_id
    (aggregate,) = furnished.compute.aggregates()
    assert (aggregate.hosts, aggregate.metadata) == (["h1"], {"sriov-nic": "true"})
    compute = made.compute_flavor
    assert compute.is_public is False
    assert compute.access == made.octavia_project_id
    assert compute.extra_specs == {"hw_rng:allowed": "True", "sriov-nic": "true"}
    flavor = furnished.load_balancer.get_flavor(flavor_id)
    profile = furnished.load_balancer.get_flavor_profile(flavor.flavor_profile_id)
    assert json.loads(profile.flavor_data) == {
        "compute_flavor": compute.id,
        "loadbalancer_topology": "SINGLE",
        "sriov_vip": True,
    }


def test_the_twins_flavors_differ_in_one_thing(made, furnished):
    data = []
    for flavor_id in (made.sriov_flavor_id, made.normal_flavor_id):
        profile_id = furnished.load_balancer.get_flavor(flavor_id).flavor_profile_id
        profile = furnished.load_balancer.get_flavor_profile(profile_id)
        data.append(json.loads(profile.flavor_data))
    assert data[0].pop("sriov_vip") is True
    assert data[1].pop("sriov_vip") is False
    assert data[0] == data[1]


def test_provider_networks_belong_to_the_member(made, furnished):
    net, members = made.vip_net, made.member_net
    assert net.network.project_id == "project-1"
    assert (net.network.provider_physical_network, net.network.provider_network_type) == (
        "public",
        "flat",
    )
    assert members.network.provider_segmentation_id == 114
    assert sorted(net.subnets) == [4, 6] and sorted(members.subnets) == [4]
    assert net.subnet(6).cidr == "2001:db8:113::/64"
    with pytest.raises(errors.ResourceMissing, match="no IPv6 subnet"):
        members.subnet(6)


def test_the_client_is_on_a_vf_with_two_addresses_of_each_version(made):
    guest = made.ask_client()
    port = guest.ports[site.VIP]
    assert port.binding_vnic_type == "direct"
    assert port.is_port_security_enabled is False
    per_subnet = [fixed["subnet_id"] for fixed in port.fixed_ips]
    assert sorted(map(per_subnet.count, set(per_subnet))) == [2, 2]
    assert guest.server.networks == [{"port": p.id} for p in guest.ports.values()]


def test_further_clients_have_names_of_their_own(made, furnished):
    first, second = made.ask_client(), made.ask_client("direct", 2)
    assert first.name != second.name and "client2-direct" in second.name
    assert not {p.id for p in first.ports.values()} & {p.id for p in second.ports.values()}


def test_more_clients_than_were_named_are_not_to_be_had(furnished, book, tmp_path):
    place = adopted(furnished, book, tmp_path, client_ids=("one",))
    with pytest.raises(errors.ResourceMissing, match="Client 2 is wanted.*names 1"):
        place.ask_client("direct", 2)


def test_a_client_that_was_given_is_of_the_kind_that_is_wanted(furnished, book, tmp_path):
    """A VF in the place of a normal port would show what a VF shows."""
    network = furnished.network._create("network", {"name": "vip"})
    subnet = furnished.network._create("subnet", {"network_id": network.id, "ip_version": 4})
    server = furnished.compute._create("server", {"name": "given", "status": "ACTIVE"})
    (access,) = (one for one in furnished.network.networks() if one.name == "access")
    fixed = [{"subnet_id": subnet.id, "ip_address": f"203.0.113.{n}"} for n in (4, 5)]
    for net, kind in ((access, "normal"), (network, "direct")):
        furnished.network._create(
            "port",
            {"network_id": net.id, "device_id": server.id, "binding_vnic_type": kind,
             "fixed_ips": fixed},
        )  # fmt: skip
    place = adopted(
        furnished, book, tmp_path, client_ids=(server.id,), vip_network_id=network.id,
        vip_subnet_ids=(subnet.id,),
    )  # fmt: skip
    assert place.ask_client().id == server.id
    with pytest.raises(errors.ResourceMissing, match="on a normal port.*given.* is direct[.]"):
        place.ask_client("normal")


def test_a_piece_that_failed_is_not_tried_again(made, furnished, monkeypatch):
    tried = []

    def fail(*args, **kw):
        tried.append(1)
        raise errors.QuotaExceeded("no more networks")

    monkeypatch.setattr(site.networks, "create_provider_network", fail)
    for _ in range(3):
        with pytest.raises(errors.QuotaExceeded):
            _ = made.vip_net
    assert tried == [1]


def test_no_host_with_a_living_agent_names_what_there_is(furnished, clouds):
    with pytest.raises(errors.ResourceMissing, match=r"h3 \(alive: \['other'\]\)"):
        placement.sriov_hosts(clouds.admin, "third")


def test_hosts_that_nova_does_not_know_are_named(furnished, clouds):
    furnished.compute._create("service", {"binary": "nova-compute", "host": "h1", "state": "up"})
    furnished.compute._create("service", {"binary": "nova-compute", "host": "h2", "state": "down"})
    with pytest.raises(errors.ResourceMissing, match="h2, h9.*knows: h1"):
        placement.require_hosts(clouds.admin, ["h1", "h2", "h9"])


def adopted(cloud, book, folder, **kw):
    member = Clouds(member=cloud.connection(roles=("member",)))
    return site.AdoptedSite(settings(folder, adopt=site.AdoptSettings(**kw)), member, book)


def test_adopt_mode_makes_no_network_and_no_flavor(furnished, book, tmp_path):
    network = furnished.network._create("network", {"name": "vip"})
    subnet = furnished.network._create("subnet", {"network_id": network.id, "ip_version": 4})
    flavor = furnished.load_balancer._create("flavor", {"name": "sriov", "is_enabled": True})
    place = adopted(
        furnished,
        book,
        tmp_path,
        sriov_flavor_id=flavor.id,
        vip_network_id=network.id,
        vip_subnet_ids=(subnet.id,),
    )
    place.ask_client()
    assert place.member_net is place.vip_net
    assert place.normal_flavor_id is None
    lb = place.ask_load_balancer("sriov")
    assert (lb.flavor_id, lb.vip_subnet_id) == (flavor.id, subnet.id)
    kinds = {entry.kind for entry in book.entries}
    assert kinds == {"port", "security_group", "keypair", "server", "load_balancer"}
    assert {entry.by for entry in book.entries} == {"member"}


@pytest.mark.parametrize(
    ("wrong", "option"),
    [
        ({"vip_network_id": "gone"}, "adopt_vip_network_id"),
        ({"vip_subnet_ids": ("gone",)}, "adopt_vip_subnet_ids"),
        ({"sriov_flavor_id": "gone"}, "adopt_sriov_flavor_id"),
        ({"client_ids": ("gone",)}, "adopt_client_ids"),
    ],
)
def test_a_wrong_id_is_named_with_its_option(furnished, book, tmp_path, wrong, option):
    network = furnished.network._create("network", {"name": "vip"})
    subnet = furnished.network._create("subnet", {"network_id": network.id, "ip_version": 4})
    flavor = furnished.load_balancer._create("flavor", {"name": "sriov", "is_enabled": True})
    given = {
        "sriov_flavor_id": flavor.id,
        "vip_network_id": network.id,
        "vip_subnet_ids": (subnet.id,),
        **wrong,
    }
    place = adopted(furnished, book, tmp_path, **given)
    with pytest.raises(errors.ResourceMissing, match=rf"gone.*{option}"):
        place.ask_load_balancer("sriov")
        place.ask_client()


def test_twins_are_asked_for_side_by_side(made, furnished):
    twins = twin.Twins.ask(made, versions=(4, 6))
    assert twins.sriov.vip_subnet_id == twins.normal.vip_subnet_id
    assert twins.sriov.flavor_id != twins.normal.flavor_id
    assert twins.sriov.additional_vips == [{"subnet_id": made.vip_net.subnet(6).id}]


def test_admin_mode_uses_networks_that_are_named(furnished, book, tmp_path):
    there = {}
    for side in ("vip", "member"):
        net = furnished.network._create("network", {"name": f"shared-{side}"})
        furnished.network._create("subnet", {"network_id": net.id, "ip_version": 4})
        there[side] = net.id
    named = site.AdoptSettings(vip_network_id=there["vip"], member_network_id=there["member"])
    place = site.AdminSite(
        settings(tmp_path, adopt=named), Clouds(member=furnished, admin=furnished), book
    )
    assert place.vip_net.id == there["vip"]
    assert place.member_net.id == there["member"]
    assert place.vip_net.subnet(4).network_id == there["vip"]
    assert not [entry for entry in book.entries if entry.kind == "network"]


def test_all_that_is_missing_is_said_at_once_and_nothing_is_made(furnished, clouds, book, tmp_path):
    wanted = settings(tmp_path, hosts=("h9",), amphora_image_tag="amphora")
    wanted = dataclasses.replace(wanted, guest_image="lost", access_network="nowhere")
    with pytest.raises(errors.NotPrepared) as caught:
        site.AdminSite(wanted, clouds, book).require()
    kinds = [type(error) for error in caught.value.missing]
    assert len(kinds) == 4 and errors.ImageNotTagged in kinds
    for word in ("4 of what", "'lost' ([sriov_lb] guest_image)", "'nowhere'", "h9", "'amphora'"):
        assert word in str(caught.value)
    assert book.entries == []


def test_a_cloud_that_has_everything_is_prepared(made, book):
    made.require()
    assert book.entries == []


def test_a_flavor_for_each_topology_and_kind_of_member_port(made, furnished):
    def data(flavor_id):
        profile = furnished.load_balancer.get_flavor(flavor_id).flavor_profile_id
        return json.loads(furnished.load_balancer.get_flavor_profile(profile).flavor_data)

    pair = made.flavor_of("sriov", topology="ACTIVE_STANDBY")
    assert made.flavor_of("sriov", topology="ACTIVE_STANDBY") == pair
    assert data(pair)["loadbalancer_topology"] == "ACTIVE_STANDBY"
    assert "allow_member_sriov" not in data(pair)
    members = data(made.flavor_of("normal", topology="SINGLE", member_sriov=True))
    assert (members["sriov_vip"], members["allow_member_sriov"]) == (False, True)


def test_without_an_administrator_there_is_no_such_flavor(furnished, book, tmp_path):
    place = adopted(furnished, book, tmp_path)
    with pytest.raises(errors.ResourceMissing, match="sriov flavor with topology ACTIVE_STANDBY"):
        place.flavor_of("sriov", topology="ACTIVE_STANDBY")


def test_a_guest_with_ports_of_any_roles(made, furnished):
    guest = made.ask_guest({"second": made.ask_member(1).ports["member"]}, "odd")
    assert set(guest.ports) == {"access", "second"}


@pytest.mark.parametrize(
    ("addresses", "on_access", "says"),
    [
        (2, False, "given .*no port on the network of .sriov_lb. access_network"),
        (1, True, "given .*has 1 IPv4 addresses; two are needed"),
    ],
)
def test_what_a_client_that_was_given_lacks_is_said_before_anything_is_made(
    furnished, book, tmp_path, addresses, on_access, says
):
    network = furnished.network._create("network", {"name": "vip"})
    subnet = furnished.network._create("subnet", {"network_id": network.id, "ip_version": 4})
    flavor = furnished.load_balancer._create("flavor", {"name": "sriov", "is_enabled": True})
    server = furnished.compute._create("server", {"name": "given", "status": "ACTIVE"})
    (access,) = (one for one in furnished.network.networks() if one.name == "access")
    fixed = [
        {"subnet_id": subnet.id, "ip_address": f"203.0.113.{n}"} for n in range(4, 4 + addresses)
    ]
    for net in (access, network) if on_access else (network,):
        furnished.network._create(
            "port",
            {"network_id": net.id, "device_id": server.id, "binding_vnic_type": "direct",
             "fixed_ips": fixed},
        )  # fmt: skip
    place = adopted(
        furnished, book, tmp_path, client_ids=(server.id,), sriov_flavor_id=flavor.id,
        vip_network_id=network.id, vip_subnet_ids=(subnet.id,),
    )  # fmt: skip
    with pytest.raises(errors.SriovLbError, match=says):
        place.require()
    assert not book.entries
