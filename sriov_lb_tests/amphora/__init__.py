# SPDX-License-Identifier: Apache-2.0
"""What can be seen inside an amphora: ruleset, interfaces, counters, services, logs.

::

    amphora = Amphora(SshHost(lb_network_ip, user="debian", key_file=key))
    print(render.table(amphora.ruleset()))
    with amphora.counting(vantage.interface.mac) as counts:
        seen = vantage.ask(probe, control=control)
    counts.of(seen.identities[0], version=4)   # {Stage.ARRIVED: 1, Stage.PASSED_FILTER: 0, …}
    amphora.collect(folder)          # everything, for a failure's artefacts
"""

from sriov_lb_tests.amphora.amphora import NAMESPACE, VIP_INTERFACE, Amphora
from sriov_lb_tests.amphora.counting import Counts, Stage

__all__ = ["Amphora", "Counts", "NAMESPACE", "Stage", "VIP_INTERFACE"]
