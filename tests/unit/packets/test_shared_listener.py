# SPDX-License-Identifier: Apache-2.0
"""CAT-002 makes a listener on a load balancer that others look at, too: nothing of it may stay."""

from types import SimpleNamespace

import pytest

from sriov_lb_tests import errors
from sriov_lb_tests.tests.catalogue import test_catalogue
from sriov_lb_tests.tests.catalogue.test_catalogue import NORMAL_PORT


class Shared:
    """The load balancer's listeners, by port; a creation that fails leaves one in ERROR."""

    def __init__(self, fails):
        self.fails, self.there = fails, [80, 8080]

    def create_listener(self, lb, *, port, **_attributes):
        self.there.append(port)
        if self.fails:
            raise errors.ResourceFault("The listener is ERROR.")
        return SimpleNamespace(protocol_port=port)

    def remove_listener(self, lb, port):
        self.there.remove(port)


@pytest.mark.parametrize("fails", ["the creation", "the survey", ""])
def test_whatever_fails_its_listener_does_not_stay(monkeypatch, fails):
    shared = Shared(fails == "the creation")
    one = test_catalogue.TestCatalogue("test_catalogue_from_a_normal_port_ipv4")
    one.scene = SimpleNamespace(
        lbs=shared,
        versions=(4,),
        normal_client=SimpleNamespace(allowed=lambda version: "203.0.113.5"),
        guarded=SimpleNamespace(deployment=SimpleNamespace(lb=None)),
    )
    during = []

    def survey(*_arguments, **_options):
        during.extend(shared.there)
        if fails:
            raise errors.ControlFailed("no answer")

    monkeypatch.setattr(one, "survey", survey)
    if fails:
        with pytest.raises((errors.ResourceFault, errors.ControlFailed)):
            one.from_a_normal_port(4)
    else:
        one.from_a_normal_port(4)
    assert (NORMAL_PORT in during) is (fails != "the creation")
    assert shared.there == [80, 8080]
