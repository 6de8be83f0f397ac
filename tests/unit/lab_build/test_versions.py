# SPDX-License-Identifier: Apache-2.0
"""From an Octavia release to pinned packages."""

import pytest

from sriov_lb_lab.build import versions, wheels
from sriov_lb_lab.errors import BuildError


@pytest.mark.parametrize("good", ["16.0.0", "18.0.1", "19.0.0", "20.0.0.0rc1", "19.0.0.dev12"])
def test_releases(good):
    assert versions.require_version(good) == good


@pytest.mark.parametrize("bad", ["", "master", "16", "../16.0.0", "16.0.0; rm", "v16.0.0"])
def test_no_releases(bad):
    with pytest.raises(BuildError, match="--octavia"):
        versions.require_version(bad)


def test_the_pins_of_the_project_are_whole():
    pins = versions.base_pins()
    assert "octavia" not in pins
    assert {"nova", "neutron", "keystone", "glance", "openstack-placement", "supervisor",
            "octavia-lib", "pymysql", *wheels.TOOLS} <= pins.keys()
    assert len(pins) > 150


def test_a_release_adds_and_overrides(tmp_path):
    (tmp_path / "2026.1.txt").write_text("a==1\nSome_Name==2  # why\n# only a comment\n")
    (tmp_path / "octavia-18.0.1.txt").write_text("some.name==3\nnew==1\n")
    assert versions.lock("16.0.0", tmp_path) == {
        "a": "a==1", "some-name": "Some_Name==2", "octavia": "octavia==16.0.0"}
    assert versions.lock("18.0.1", tmp_path) == {
        "a": "a==1", "some-name": "some.name==3", "new": "new==1", "octavia": "octavia==18.0.1"}
    assert versions.octavia_pins("16.0.0", tmp_path) == {}


@pytest.mark.parametrize(("text", "message"), [
    ("a>=1\n", "line 1: expected name==version, found 'a>=1'"),
    ("a==1\n\nA==2\n", "line 3: a is pinned twice"),
    ("-r other.txt\n", "expected name==version"),
])
def test_constraints_must_pin(text, message):
    with pytest.raises(BuildError, match=message):
        versions.parse_pins(text, "x.txt")


METADATA = """\
Metadata-Version: 2.1
Name: octavia
Requires-Dist: oslo.db[mysql] >=8.4.0
Requires-Dist: Flask!=0.11,>=0.10
Requires-Dist: pyroute2 >=0.5.14 ; (sys_platform!='win32')
Requires-Dist: redis >=3.4.0 ; extra == 'redis'
Requires-Dist: kazoo>=2.6.0; extra == "zookeeper"

Requires a database.
"""


def test_what_a_release_needs_must_be_pinned():
    pins = {"oslo-db": "oslo.db==1", "flask": "Flask==3", "pyroute2": "pyroute2==0.8"}
    versions.require_pinned("16.0.0", METADATA, pins)
    del pins["flask"]
    assert versions.unpinned(METADATA, pins) == ["Flask!=0.11,>=0.10"]
    with pytest.raises(BuildError, match=r"Flask.*\n.*octavia-16\.0\.0\.txt"):
        versions.require_pinned("16.0.0", METADATA, pins)


def test_wheels_that_are_there_are_not_fetched_again():
    names = ["oslo.db-18.0.0-py3-none-any.whl", "MarkupSafe-3.0.3-cp311-cp311-linux_x86_64.whl",
             "jaraco_functools-4.1.0-1-py3-none-any.whl", "octavia-16.0.0.tar.gz",
             "broken.whl", "old-1.0-py3-none-any.whl"]
    pins = {"oslo-db": "oslo.db==18.0.0", "markupsafe": "MarkupSafe==3.0.3",
            "jaraco-functools": "jaraco.functools==4.1.0", "octavia": "octavia==16.0.0",
            "old": "old==2.0"}
    assert wheels.missing(pins, names) == {"octavia": "octavia==16.0.0", "old": "old==2.0"}
    assert wheels.missing(pins, []) == pins
