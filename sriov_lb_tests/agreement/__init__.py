# SPDX-License-Identifier: Apache-2.0
"""Do policy, ruleset and wire of one load balancer agree, now?

::

    subject = Subject.of(load_balancer, listeners, pools, amphorae)   # API objects or REST dicts
    seats = [Seat.of(amphora, Amphora(ssh)) for amphora in amphorae]  # [] without ssh
    reach = Reach.of(vantage, subject, links=[subnet.cidr, ...])
    found = look(subject, seats, vantage, reach, ports=[8080])
    if not found.agreed:
        print(found)          # one sentence, then the witnesses and what each of the three says
    settled = settle(lambda: look(...), patience=20)   # once at once, then until they agree

* *policy*: what the API objects promise (``sriov_lb_tests.policy.model``);
* *ruleset*: what each amphora holds, read by ssh and compared with its policy over all packets;
* *wire*: questions that follow from the policy (for every listener and IP version a source that
  may and one that may not, neighbours of its port, ports that were once served), and the
  witnesses of the proof, sent; each silence with a control. In amphorae that may be entered, a
  counting table says whether a packet passed whose acceptance gives no answer.

Modules: ``subject`` (API objects), ``questions`` (policy to packets; pure), ``sending`` (packets to
the wire), ``result`` (findings and sentences), ``check`` (the three together), ``reboot`` (what an
amphora will hold after one).

Knows neither OpenStack nor Tempest: API objects come as mappings or as anything that has
``to_dict(original_names=True)``.
"""

from sriov_lb_tests.agreement.check import look
from sriov_lb_tests.agreement.questions import Question, Reach, questions
from sriov_lb_tests.agreement.result import Agreement, Finding, Settled, View, settle
from sriov_lb_tests.agreement.sending import Answered, send
from sriov_lb_tests.agreement.subject import Seat, Subject

__all__ = [
    "Agreement", "Answered", "Finding", "Question", "Reach", "Seat", "Settled", "Subject", "View",
    "look", "questions", "send", "settle",
]  # fmt: skip
