# SPDX-License-Identifier: Apache-2.0
import json
from importlib import resources

import jsonschema
import pytest
import yaml

from sriov_lb_tests import errors
from sriov_lb_tests.cloud import scenario

FOLDER = resources.files("sriov_lb_tests") / "scenarios"
VALUES = {"allowed_v4": "203.0.113.7", "allowed_v6": "2001:db8::7"}


@pytest.mark.parametrize("kind", ["topologies", "listeners"])
def test_every_file_follows_its_schema(kind):
    schema = json.loads((FOLDER / f"{kind}.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    files = [path for path in (FOLDER / kind).iterdir() if path.name.endswith(".yaml")]
    assert files
    for path in files:
        jsonschema.validate(yaml.safe_load(path.read_text()), schema)


def test_the_topology_of_the_thin_thread():
    found = scenario.topology("one-arm-dual")
    assert found.vip_versions == (4, 6)
    assert (found.members, found.member_place) == (2, "vip")
    assert found.client_vnic_type == "direct"


def test_values_are_filled_in_as_canonical_cidrs():
    found = scenario.listener_set("web-one-source", VALUES, (4, 6))
    assert found.listener("guarded").allowed_cidrs == ("203.0.113.7/32", "2001:db8::7/128")
    assert found.listener("open").allowed_cidrs is None
    assert found.listener("guarded").pool == found.pools[0].name


def test_the_sweep_leaves_no_cidr_of_the_shared_listeners_out():
    """It has one allowed source of each IP version, and a rule is one CIDR's."""
    for listener in scenario.listener_set("web-one-source", VALUES, (4, 6)).listeners:
        versions = [":" in cidr for cidr in listener.allowed_cidrs or ()]
        assert len(versions) == len(set(versions))


def test_cidrs_of_a_version_without_a_vip_are_left_out():
    found = scenario.listener_set("web-one-source", VALUES, (6,))
    assert found.listener("guarded").allowed_cidrs == ("2001:db8::7/128",)
    only = {"allowed_v4": "203.0.113.7"}
    found = scenario.listener_set("web-one-source", only, (4,))
    assert found.listener("guarded").allowed_cidrs == ("203.0.113.7/32",)


def test_a_name_without_a_value_is_an_error_not_an_open_listener():
    with pytest.raises(errors.ConfigurationError, match="allowed_v4"):
        scenario.listener_set("web-one-source", {}, (4,))


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(errors.ConfigurationError, match="one-arm-dual"):
        scenario.topology("three-legged")


def test_a_file_that_breaks_the_schema_is_refused_by_place(monkeypatch, tmp_path):
    package = tmp_path / "scenarios"
    (package / "topologies").mkdir(parents=True)
    schema = (FOLDER / "topologies.schema.json").read_text()
    (package / "topologies.schema.json").write_text(schema)
    (package / "topologies" / "bad.yaml").write_text(
        "description: something long enough\nvip: {versions: [5]}\n"
        "members: {count: 1, place: own}\nclient: {vnic_type: direct}\n"
    )
    monkeypatch.setattr(scenario.resources, "files", lambda _: tmp_path)
    with pytest.raises(errors.ConfigurationError, match="vip/versions/0"):
        scenario.topology("bad")
