# SPDX-License-Identifier: Apache-2.0
"""Unit tests need no network, and send nothing into one."""

import pytest


@pytest.fixture(autouse=True, scope="session")
def nobody_asks_for_a_mac():
    """scapy asks the machine's own network for the MAC of a frame that is built without one, and
    waits seconds for the answer."""
    from scapy.layers import inet6, l2  # noqa: F401  (inet6 adds its own way to ask)

    def refuse(_self, frame, packet):
        raise AssertionError(f"{packet.summary()} is in an Ether() without dst: give it one")

    before = l2.Neighbor.resolve
    l2.Neighbor.resolve = refuse
    yield
    l2.Neighbor.resolve = before
