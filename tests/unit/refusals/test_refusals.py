# SPDX-License-Identifier: Apache-2.0
"""What others make meanwhile is nothing that a refusal left."""

from types import SimpleNamespace

from sriov_lb_tests.tests.refusals import test_refusals

MINE = "sriov-lb-r1_ab12-"


def test_only_what_was_made_here_counts():
    every = [
        SimpleNamespace(id=str(number), name=name)
        for number, name in enumerate([f"{MINE}1-profile", "sriov-lb-r1_cd34-1-lb", "other", None])
    ]
    admin = SimpleNamespace(load_balancer=SimpleNamespace(flavor_profiles=lambda: every))
    stage = SimpleNamespace(
        clouds=SimpleNamespace(by=lambda who: admin), ledger=SimpleNamespace(mine=MINE)
    )
    flavors = test_refusals.TestFlavorRefusals("test_wrong_type")
    balancers = test_refusals.TestLoadBalancerRefusals("test_security_groups_of_the_vip")
    flavors.stage = balancers.stage = stage
    balancers.lbs = SimpleNamespace(list=lambda: every)
    assert flavors.profiles() == balancers.known() == {"0"}
