# SPDX-License-Identifier: Apache-2.0
"""The configuration check names every problem at once and accepts what is right."""

import types

import pytest
from oslo_config import cfg

from sriov_lb_tests import config, config_check
from sriov_lb_tests.errors import InvalidConfiguration

FLAVOR = "0b6b0d0e-9ab0-4d07-b4cf-4a4f8a0c0b7d"
TWIN = "5f3c9e7a-4d19-44b7-9df5-7a3e8b0a6f12"
NETWORK = "d4f0a1c2-71c0-4d57-8cb6-9a1b8b3d5e21"
SUBNET = "6a1f3b54-0f0f-4f4e-8a52-0d3f5a7f9c10"
SERVER = "2e4d6c8a-1b3f-4a5c-8d7e-9f0a1b2c3d4e"

GUESTS = {"guest_image": "debian-12", "guest_flavor": "small", "access_network": "private"}
ADMIN = {"vip_physical_network": "physnet1", "member_physical_network": "physnet2", **GUESTS}
ADOPT = {
    "mode": "adopt",
    "adopt_sriov_flavor_id": FLAVOR,
    "adopt_vip_network_id": NETWORK,
    "adopt_vip_subnet_ids": [SUBNET],
    **GUESTS,
}


@pytest.fixture
def key(tmp_path):
    path = tmp_path / "key"
    path.write_text("a private key")
    return str(path)


def named(values):
    """The options complained about, without their group."""
    return [p.option.removeprefix("[sriov_lb] ") for p in config_check.problems(values)]


def only(values):
    """The one problem there must be."""
    (problem,) = config_check.problems(values)
    return problem


@pytest.mark.parametrize("values", [ADMIN, ADOPT], ids=["admin", "adopt"])
def test_a_sufficient_configuration_has_no_problem(values):
    assert config_check.problems(values) == []
    config_check.check(values)


def test_all_problems_come_at_once_in_the_order_of_the_options():
    with pytest.raises(InvalidConfiguration) as caught:
        config_check.check(
            {"run_id": "Not Good", "vip_cidr_v4": "10.0.0.1/24", "check_interval": 999}
        )
    options = [p.option for p in caught.value.problems]
    assert options == [
        "[sriov_lb] run_id",
        "[sriov_lb] vip_physical_network",
        "[sriov_lb] vip_cidr_v4",
        "[sriov_lb] member_physical_network",
        "[sriov_lb] guest_image",
        "[sriov_lb] guest_flavor",
        "[sriov_lb] access_network",
        "[sriov_lb] check_interval",
    ]
    text = str(caught.value)
    assert text.startswith("8 options are wrong or missing:")
    for option in options:
        assert option in text
    assert "'10.0.0.1/24'" in text and "did you mean 10.0.0.0/24?" in text


@pytest.mark.parametrize("missing", sorted(ADMIN))
def test_each_thing_admin_mode_needs_is_asked_for(missing):
    values = {name: value for name, value in ADMIN.items() if name != missing}
    problem = only(values)
    assert problem.option == f"[sriov_lb] {missing}"
    assert f"{missing} = " in problem.remedy


@pytest.mark.parametrize("missing", sorted(set(ADOPT) - {"mode"}))
def test_each_thing_adopt_mode_needs_is_asked_for(missing):
    assert named({n: v for n, v in ADOPT.items() if n != missing}) == [missing]


def test_adopt_mode_does_not_ask_for_what_only_admin_mode_needs():
    assert named({**ADOPT, "vip_cidr_v4": "nonsense", "aggregate_properties": []}) == []


@pytest.mark.parametrize(
    ("change", "option", "says"),
    [
        ({"run_id": "UPPER"}, "run_id", "lower-case"),
        ({"run_id": "-dash"}, "run_id", "lower-case"),
        ({"run_id": "a" * 17}, "run_id", "at most 16"),
        ({"artifacts_dir": ""}, "artifacts_dir", "evidence"),
        ({"artifacts_dir": "/dev/null/x"}, "artifacts_dir", "/dev/null is not a folder"),
        ({"journal_dir": "/dev/null/x"}, "journal_dir", "/dev/null is not a folder"),
        ({"octavia_release": "epoxy"}, "octavia_release", "such as 16.0.0"),
        ({"known_defects_file": "/nonexistent"}, "known_defects_file", "No such file"),
        ({"clouds_file": "/"}, "clouds_file", "It is a folder"),
        ({"cloud": "mine"}, "admin_cloud", "`cloud` is set"),
        ({"octavia_project": ""}, "octavia_project", "amphorae belong to"),
        ({"vip_network_type": "vlan"}, "vip_segmentation_id", "1 to 4094"),
        (
            {"vip_network_type": "vlan", "vip_segmentation_id": 4095},
            "vip_segmentation_id",
            "1 to 4094",
        ),
        ({"member_segmentation_id": 5}, "member_segmentation_id", "member_network_type is flat"),
        ({"vip_cidr_v4": "203.0.113.7/24"}, "vip_cidr_v4", "did you mean 203.0.113.0/24?"),
        ({"vip_cidr_v4": "some"}, "vip_cidr_v4", "CIDR"),
        ({"vip_cidr_v4": "2001:db8:9::/64"}, "vip_cidr_v4", "IPv6 belongs into vip_cidr_v6"),
        ({"vip_cidr_v6": "203.0.113.0/24"}, "vip_cidr_v6", "IPv4 belongs into vip_cidr_v4"),
        ({"vip_cidr_v4": "203.0.113.0/29"}, "vip_cidr_v4", "use /28 or shorter"),
        ({"vip_cidr_v6": "2001:db8::/126"}, "vip_cidr_v6", "use /124 or shorter"),
        ({"vip_cidr_v4": "224.0.0.0/24"}, "vip_cidr_v4", "hosts can have"),
        ({"vip_cidr_v4": "", "vip_cidr_v6": ""}, "vip_cidr_v4", "here or in vip_cidr_v6"),
        ({"member_cidr_v4": "203.0.113.128/25"}, "member_cidr_v4", "apart from vip_cidr_v4"),
        ({"member_cidr_v6": "2001:db8:113::/80"}, "member_cidr_v6", "apart from vip_cidr_v6"),
        ({"member_physical_network": "physnet1"}, "member_physical_network", "another segment"),
        ({"sriov_hosts": ["a", "b", "a"]}, "sriov_hosts", "second a"),
        ({"aggregate_properties": []}, "aggregate_properties", "at least one pair"),
        ({"aggregate_properties": ["sriov"]}, "aggregate_properties", "'sriov' is not KEY=VALUE"),
        ({"aggregate_properties": ["a:b=c"]}, "aggregate_properties", "flavor_properties"),
        ({"flavor_properties": ["=c"]}, "flavor_properties", "'=c' is not KEY=VALUE"),
        ({"amphora_image_tag": ""}, "amphora_image_tag", "amp_image_tag"),
        ({"guest_user": ""}, "guest_user", "keys"),
        ({"guest_key_file": "/nonexistent"}, "guest_key_file", "No such file"),
        ({"guest_connect_method": "floating"}, "floating_network", "floating"),
        ({"amphora_ssh": True}, "amphora_key_file", "amphora_ssh is true"),
        ({"check_interval": 120.0}, "check_interval", "120 s"),
        ({"performance": True, "performance_profile": ""}, "performance_profile", "is true"),
    ],
)
def test_admin_mode_finds(change, option, says):
    problem = only({**ADMIN, **change})
    assert problem.option == f"[sriov_lb] {option}"
    assert says in str(problem)


@pytest.mark.parametrize(
    ("change", "option", "says"),
    [
        ({"adopt_vip_network_id": "public"}, "adopt_vip_network_id", "not a name"),
        ({"adopt_vip_subnet_ids": [SUBNET, "x"]}, "adopt_vip_subnet_ids", "'x'"),
        ({"adopt_normal_flavor_id": FLAVOR}, "adopt_normal_flavor_id", "another flavor"),
        ({"adopt_client_ids": [SERVER]}, "guest_key_file", "adopted guests"),
        ({"adopt_member_ids": [SERVER]}, "guest_key_file", "adopted guests"),
    ],
)
def test_adopt_mode_finds(change, option, says):
    problem = only({**ADOPT, **change})
    assert problem.option == f"[sriov_lb] {option}"
    assert says in str(problem)


def test_adopt_mode_with_every_guest_adopted_needs_no_image(key):
    values = {name: value for name, value in ADOPT.items() if name not in GUESTS}
    assert sorted(named(values)) == ["access_network", "guest_flavor", "guest_image"]
    values.update(
        access_network="private",
        adopt_client_ids=[SERVER],
        adopt_member_ids=[SERVER],
        adopt_normal_flavor_id=TWIN,
        guest_key_file=key,
    )
    assert named(values) == []


def test_ssh_to_the_amphora_as_a_plain_member_needs_an_administrator_for_the_address(key):
    values = {**ADOPT, "amphora_ssh": True, "amphora_key_file": key}
    assert named(values) == []
    assert named({**values, "cloud": "mine"}) == ["admin_cloud"]
    assert named({**values, "cloud": "mine", "admin_cloud": "admin"}) == []


@pytest.mark.parametrize("who", ["guest", "amphora", "both"])
def test_a_jump_host_is_asked_for_once(who, key):
    jump = {
        "guest": {"guest_connect_method": "jump"},
        "amphora": {
            "amphora_ssh": True,
            "amphora_key_file": key,
            "amphora_connect_method": "jump",
        },
    }
    jump["both"] = {**jump["guest"], **jump["amphora"]}
    values = {**ADMIN, **jump[who]}
    assert named(values) == ["jump_host", "jump_user", "jump_key_file"]
    assert named({**values, "jump_host": "b", "jump_user": "u", "jump_key_file": key}) == []


def test_two_vlans_on_one_physical_network_are_fine_and_one_vlan_is_not():
    vlan = {
        **ADMIN,
        "member_physical_network": "physnet1",
        "vip_network_type": "vlan",
        "vip_segmentation_id": 113,
        "member_network_type": "vlan",
    }
    assert named({**vlan, "member_segmentation_id": 114}) == []
    assert named({**vlan, "member_segmentation_id": 113}) == ["member_physical_network"]


def test_one_family_is_enough():
    assert named({**ADMIN, "vip_cidr_v6": "", "member_cidr_v6": ""}) == []
    assert named({**ADMIN, "vip_cidr_v4": "", "member_cidr_v4": ""}) == []


def test_a_folder_that_does_not_exist_yet_is_fine_where_it_can_be_made(tmp_path):
    assert named({**ADMIN, "artifacts_dir": str(tmp_path / "a" / "b")}) == []


def test_paths_may_start_with_the_home_folder(monkeypatch, key, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert named({**ADMIN, "guest_key_file": "~/key"}) == []
    assert named({**ADMIN, "guest_key_file": "~/other"}) == ["guest_key_file"]


def test_a_namespace_serves_as_well_as_a_mapping():
    assert named(types.SimpleNamespace(**ADMIN)) == []
    assert named(types.SimpleNamespace(**ADOPT, substrate="wood")) == ["substrate"]


def test_values_that_oslo_config_refuses_are_collected_like_the_others(tmp_path):
    """oslo.config raises at the first one it is asked for; users want the whole list."""
    path = tmp_path / "tempest.conf"
    path.write_text(
        "[sriov_lb]\nmode = wish\nlb_build_timeout = soon\nprobe_count = 0\ndisruptive = maybe\n"
        "jump_port = 70000\nvip_physical_network = physnet1\n"
    )
    conf = cfg.ConfigOpts()
    conf.register_group(config.sriov_lb_group)
    conf.register_opts(config.SriovLbGroup, group=config.sriov_lb_group)
    conf([], default_config_files=[str(path)])
    with pytest.raises(InvalidConfiguration) as caught:
        config_check.check(conf.sriov_lb)
    by_name = {p.option.removeprefix("[sriov_lb] "): p for p in caught.value.problems}
    assert {"mode", "lb_build_timeout", "probe_count", "disruptive", "jump_port"} < set(by_name)
    assert by_name["mode"].expected == "one of admin, adopt"
    assert "'wish'" in str(by_name["mode"])
    assert by_name["lb_build_timeout"].expected == "a whole number, at least 1"
    assert by_name["disruptive"].expected == "true or false"
    assert "member_physical_network" in by_name
    assert "vip_physical_network" not in by_name


def test_properties_split_at_the_first_equals_sign():
    assert config_check.properties(["a=b", "hw:mem_page_size=1=2", " c = d "]) == {
        "a": "b",
        "hw:mem_page_size": "1=2",
        "c": "d",
    }
    with pytest.raises(ValueError, match="'a' is not KEY=VALUE"):
        config_check.properties(["a"])
