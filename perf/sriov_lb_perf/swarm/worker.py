# SPDX-License-Identifier: Apache-2.0
"""A locust worker of one client: ``python -m sriov_lb_perf.swarm.worker``.

Started by :class:`sriov_lb_perf.swarm.control.Swarm` with a socket to the client's engine.
"""

from __future__ import annotations

import argparse
import logging
import socket
import sys

import gevent
from gevent.queue import Queue
from locust import runners
from locust.env import Environment

from sriov_lb_perf.swarm.station import REPORT_INTERVAL, Station
from sriov_lb_perf.swarm.vip_load import VipLoadUser, mirror


class Desk:
    """Where jobs from the master arrive and the User picks them up."""

    def __init__(self, environment: Environment, station: Station) -> None:
        self.environment = environment
        self.station = station
        self.jobs: Queue = Queue()
        environment.events.report_to_master.add_listener(self._report)

    def work(self, user: VipLoadUser) -> None:
        trial, job = self.jobs.get()
        self.station.run(trial, job, lambda seen: mirror(self.environment, job["url"], seen))

    def arrived(self, environment, msg, **_rest) -> None:
        self.jobs.put((msg.data["trial"], msg.data["job"]))

    def stop(self, environment, msg, **_rest) -> None:
        self.station.stop()

    def _report(self, client_id: str, data: dict, **_rest) -> None:
        data["sriov_lb"] = self.station.take()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="of the master, on 127.0.0.1")
    parser.add_argument("--link", type=int, required=True, help="descriptor of the engine's socket")
    parser.add_argument("--name", required=True)
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    runners.WORKER_REPORT_INTERVAL = REPORT_INTERVAL
    environment = Environment(user_classes=[VipLoadUser])
    station = Station(socket.socket(fileno=options.link), options.name)
    environment.sriov_lb = desk = Desk(environment, station)
    runner = environment.create_worker_runner("127.0.0.1", options.port)
    runner.register_message("sriov_lb_trial", desk.arrived)
    runner.register_message("sriov_lb_stop", desk.stop)
    runner.send_message("sriov_lb_hello", {"name": options.name})
    runner.greenlet.join()
    gevent.sleep(0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
