# SPDX-License-Identifier: Apache-2.0
"""An IPv6 VIP that fails on a VF is a failure, and a normal one the control."""

from types import SimpleNamespace

import pytest

from sriov_lb_tests import errors
from sriov_lb_tests.tests.provisioning import test_provisioning
from sriov_lb_tests.tests.scene import OperationBroken

FAULT = errors.ResourceFault("It was to be ACTIVE and is ERROR.")


class Scene:
    asked = {"spare": "asked"}

    @property
    def spare(self):
        raise FAULT


@pytest.mark.parametrize(("fails", "normal"), [(False, "ACTIVE"), (True, "ERROR")])
def test_an_ipv6_vip_that_fails(fails, normal):
    asked, deleted = [], []

    def ask(kind, versions, what):
        asked.append((kind, versions))
        return SimpleNamespace(id="control")

    def wait(lb_id):
        if fails:
            raise FAULT

    lbs = SimpleNamespace(wait=wait, delete=deleted.append)
    one = test_provisioning.TestIpv6Vip("test_ipv6_vip")
    one.scene, one.lbs = Scene(), lbs
    one.stage = SimpleNamespace(site=SimpleNamespace(ask_load_balancer=ask))
    with pytest.raises(OperationBroken) as caught:
        type(one).test_ipv6_vip.__wrapped__(one)
    assert caught.value.seen == {
        "operation": "loadbalancer-create", "sriov": "ERROR", "normal": normal,
    }  # fmt: skip
    assert asked == [("normal", (6,))] and deleted == ["control"]
    assert one.involved == {"ipv6": "asked"}
