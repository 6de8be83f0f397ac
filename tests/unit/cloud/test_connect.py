# SPDX-License-Identifier: Apache-2.0
import json
from types import SimpleNamespace

import pytest
from keystoneauth1 import exceptions as ka
from openstack import exceptions as sdk

from sriov_lb_tests import errors
from sriov_lb_tests.cloud import connect


def connection(catalogue, document=None, error=None, overrides=None):
    """A connection whose catalogue is a dict, and whose Octavia answers with a document."""

    def get_endpoint(service_type, **_):
        return catalogue.get(service_type)

    def get(url, **_):
        if error:
            raise error
        text = document if isinstance(document, str) else json.dumps(document)
        return SimpleNamespace(text=text, json=lambda: json.loads(text), url=url)

    return SimpleNamespace(
        session=SimpleNamespace(get_endpoint=get_endpoint, get=get, auth=None),
        config=SimpleNamespace(
            get_region_name=lambda *a: "RegionOne",
            get_interface=lambda *a: "public",
            get_endpoint=(overrides or {}).get,
        ),
    )


ALL = {name: f"http://api/{name}" for name in connect.SERVICES}


def test_an_endpoint_of_clouds_yaml_comes_before_the_catalogue():
    cloud = connection(ALL, overrides={"load-balancer": "http://mine"})
    assert connect.endpoint(cloud, "load-balancer") == "http://mine"
    assert connect.endpoint(cloud, "compute") == "http://api/compute"
    connect.require_services(connection({}, overrides=ALL))


def versions(*names):
    return {"versions": [{"id": name, "status": "SUPPORTED"} for name in names]}


def test_all_missing_services_are_named_at_once():
    with pytest.raises(errors.ServiceMissing, match=r"Glance \(image\), Octavia \(load-balancer\)"):
        connect.require_services(connection({"compute": "x", "network": "x"}))
    connect.require_services(connection(ALL))


@pytest.mark.parametrize(
    "endpoint", ["http://lb:9876", "http://lb/load-balancer/v2.0", "http://lb/v2/"]
)
def test_the_newest_version_is_found_whatever_the_endpoint(endpoint):
    cloud = connection({"load-balancer": endpoint}, versions("v2.0", "v2.9", "v2.30", "v1"))
    assert connect.octavia_version(cloud) == (2, 30)


def test_an_old_octavia_is_refused_with_both_versions():
    cloud = connection(ALL, versions("v2.0", "v2.27"))
    with pytest.raises(errors.ApiTooOld, match=r"v2\.28.*v2\.27"):
        connect.require_octavia(cloud)
    with pytest.raises(errors.ApiTooOld, match=r"members need.*v2\.30"):
        connect.require_octavia(cloud, connect.MEMBER_VERSION, "SR-IOV members")


def test_no_octavia():
    with pytest.raises(errors.ServiceMissing, match="Octavia"):
        connect.octavia_version(connection({}))


@pytest.mark.parametrize("document", ["<html>", {"other": 1}, {"versions": [{"id": "beta"}]}])
def test_something_else_at_octavias_address(document):
    with pytest.raises(errors.ApiUnreachable):
        connect.octavia_version(connection(ALL, document))


def test_an_octavia_that_does_not_answer():
    cloud = connection(ALL, error=ka.ConnectFailure("refused"))
    with pytest.raises(errors.ApiUnreachable, match="refused"):
        connect.octavia_version(cloud)


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (ka.Unauthorized("no"), errors.AuthenticationFailed),
        (ka.EmptyCatalog("no"), errors.ServiceMissing),
        (ka.ConnectTimeout("no"), errors.ApiUnreachable),
        (ka.SSLError("no"), errors.ApiUnreachable),
        (ka.DiscoveryFailure("no"), errors.ApiUnreachable),
        (sdk.SDKException("HTTP 401 requires authentication"), errors.AuthenticationFailed),
        (sdk.SDKException("something else"), errors.ApiUnreachable),
    ],
)
def test_each_cause_has_its_own_error(raised, expected):
    with pytest.raises(expected, match="cloud 'x'.*no|cloud 'x'.*"):
        with connect.translated("cloud 'x'", "http://keystone"):
            raise raised


def test_a_cloud_that_is_not_in_clouds_yaml(tmp_path):
    path = tmp_path / "clouds.yaml"
    path.write_text("clouds: {}\n")
    with pytest.raises(errors.ConfigurationError, match="'nowhere'"):
        connect.from_clouds_yaml("nowhere", clouds_file=str(path))
    with pytest.raises(errors.ConfigurationError, match="does not exist"):
        connect.from_clouds_yaml("nowhere", clouds_file=str(tmp_path / "none.yaml"))


def test_without_an_administrator_the_message_says_what_to_do():
    clouds = connect.Clouds(member=object())
    assert clouds.by("member") is clouds.widest
    with pytest.raises(errors.AuthenticationFailed, match="adopt mode"):
        clouds.by("admin")


def test_a_named_file_wins_over_the_environment(tmp_path, monkeypatch):
    """openstacksdk itself reads OS_CLIENT_CONFIG_FILE before any file it is given."""
    text = "clouds: {%s: {auth: {auth_url: 'http://x/v3', username: u, password: p}}}\n"
    (tmp_path / "named").write_text(text % "stranger")
    (tmp_path / "other").write_text(text % "elsewhere")
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(tmp_path / "other"))
    monkeypatch.setattr(connect, "authenticate", lambda *_: None)
    found = connect.from_clouds_yaml("stranger", clouds_file=str(tmp_path / "named"))
    assert found.config.name == "stranger"
    with pytest.raises(errors.ConfigurationError, match="'stranger' cannot be used"):
        connect.from_clouds_yaml("stranger")
