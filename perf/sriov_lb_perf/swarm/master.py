# SPDX-License-Identifier: Apache-2.0
"""The locust master: ``python -m sriov_lb_perf.swarm.master``.

Orders come as JSON lines on stdin, events leave as JSON lines on stdout. When stdin closes the
master tells its workers to quit and ends: a tester that dies takes the swarm with it.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys

import gevent
from gevent.fileobject import FileObject
from locust.env import Environment

from sriov_lb_perf.histogram import Histogram
from sriov_lb_perf.swarm.vip_load import VipLoadUser


class Master:
    """Hands jobs to workers and merges what comes back."""

    def __init__(self, environment: Environment, expected: int) -> None:
        self.environment = environment
        self.runner = environment.runner
        self.expected = expected
        self.workers: dict[str, str] = {}  # name -> locust's client id
        self.open: dict[int, dict] = {}  # trial -> what is known of it
        self.runner.register_message("sriov_lb_hello", self.joined)
        environment.events.worker_report.add_listener(self.report)

    def joined(self, environment, msg, **_rest) -> None:
        self.workers[msg.data["name"]] = msg.node_id
        self.say("joined", worker=msg.data["name"], of=self.expected)
        if len(self.workers) == self.expected:
            # Not from within the message handler: start() waits for messages.
            gevent.spawn(self.start)

    def start(self) -> None:
        self.runner.start(self.expected, spawn_rate=self.expected)
        self.say("running", users=self.expected)

    def order(self, order: dict) -> None:
        if "stop" in order:
            self.runner.send_message("sriov_lb_stop")
            return
        number = order["trial"]
        self.open[number] = {"waiting": set(order["jobs"]), "reports": {}, "histograms": {}}
        for name, job in order["jobs"].items():
            self.runner.send_message(
                "sriov_lb_trial", {"trial": number, "job": job}, client_id=self.workers[name]
            )

    def report(self, client_id: str, data: dict, **_rest) -> None:
        for part in data.get("sriov_lb", ()):
            trial = self.open.get(part["trial"])
            if trial is None:
                continue
            for name, text in part["histograms"].items():
                trial["histograms"].setdefault(name, Histogram()).add(Histogram.decode(text))
            if not part["final"]:
                self.say("tick", trial=part["trial"], worker=part["worker"], report=part["report"])
                continue
            trial["reports"][part["worker"]] = part["report"]
            trial["waiting"].discard(part["worker"])
            if part["report"]["report"] == "error":
                # Without one share of the load the others' mean nothing: the trial is over.
                for name in trial["waiting"]:
                    self.runner.send_message("sriov_lb_stop", client_id=self.workers[name])
            if not trial["waiting"]:
                del self.open[part["trial"]]
                self.say(
                    "trial",
                    trial=part["trial"],
                    reports=trial["reports"],
                    histograms={n: h.encode() for n, h in trial["histograms"].items()},
                )

    @staticmethod
    def say(event: str, **fields) -> None:
        data = (json.dumps({"event": event, **fields}) + "\n").encode()
        while data:
            data = data[os.write(1, data) :]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--expect", type=int, required=True, help="number of workers")
    parser.add_argument("--web-port", type=int, help="serve locust's web UI on 127.0.0.1")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    environment = Environment(user_classes=[VipLoadUser])
    runner = environment.create_master_runner("127.0.0.1", 0)
    master = Master(environment, options.expect)
    if options.web_port is not None:
        environment.create_web_ui("127.0.0.1", options.web_port)
    master.say("ready", port=runner.server.port)
    with FileObject(os.dup(0), "rb") as orders:
        for line in orders:
            master.order(json.loads(line))
    runner.quit()
    return 0


if __name__ == "__main__":
    sys.exit(main())
