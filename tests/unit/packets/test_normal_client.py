# SPDX-License-Identifier: Apache-2.0
"""CAT-002 where all clients were given: without one on a normal port nothing is looked at."""

from types import SimpleNamespace

import pytest

from sriov_lb_tests import errors
from sriov_lb_tests.tests.catalogue import test_catalogue


class Scene:
    """Of a site whose client is on a VF."""

    @property
    def normal_client(self):
        raise errors.ResourceMissing("A client on a normal port is wanted.")


@pytest.fixture
def test(monkeypatch):
    """``test("adopt", "a-guest")``: look in that mode, with these clients given."""
    one = test_catalogue.TestCatalogue("test_catalogue_from_a_normal_port_ipv4")
    one.scene = Scene()

    def look(mode, *ids):
        conf = SimpleNamespace(sriov_lb=SimpleNamespace(mode=mode))
        monkeypatch.setattr(test_catalogue.scene, "CONF", conf)
        settings = SimpleNamespace(adopt=SimpleNamespace(client_ids=ids))
        one.stage = SimpleNamespace(site=SimpleNamespace(settings=settings))
        one.from_a_normal_port(4)

    look.skipped = one.skipException
    return look


def test_it_is_skipped_with_the_reason(test):
    with pytest.raises(test.skipped, match="on a normal port is wanted"):
        test("adopt", "a-guest")


@pytest.mark.parametrize("where", [("adopt",), ("admin",), ("admin", "not-used")])
def test_where_we_make_clients_what_is_missing_is_an_error(test, where):
    with pytest.raises(errors.ResourceMissing):
        test(*where)
