# SPDX-License-Identifier: Apache-2.0
"""The faults, as data. To add one: an entry in the module of what it is about."""

from sriov_lb_tests.mutants.faults import amphora, gate, listeners

ALL = (*listeners.FAULTS, *gate.FAULTS, *amphora.FAULTS)

if len({fault.id for fault in ALL}) != len(ALL):
    raise ValueError("two faults have one id")
