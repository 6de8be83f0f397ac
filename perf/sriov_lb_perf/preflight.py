# SPDX-License-Identifier: Apache-2.0
"""A look at everything a profile will ask for, before anything is measured.

What every stage stands on has to answer, or the run does not begin. What some stages ask for
beside it (TLS, UDP, other objects, iperf3) and what does not answer is taken off the target with
its reason: stages that are optional are then left out, others refuse to begin.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from sriov_lb_tests.errors import SriovLbError
from sriov_lb_tests.wire.host import Result

from . import errors
from .engines.base import PATIENCE, Crew, fetch
from .engines.iperf import when_free
from .engines.probe import UdpProbe
from .model import Stage
from .profiles import Profile
from .targets import Pair, Target, at_path


def look(pair: Pair, profile: Profile, crew: Crew) -> tuple[dict[str, Mapping[str, Any]], Pair]:
    """(what came from each VIP by its role, the pair as far as it answers).

    The crew learns how long each object is: every later answer is held to it.

    :raises TargetFailed: a VIP gives no answer, or one that is not 200 with a length.
    """
    found = {}
    sides = {}
    for name in ("reference", "candidate"):
        vip = getattr(pair, name)
        found[vip.role] = _plain(vip, crew)
        sides[name] = _beside(vip, profile, crew)
    lengths = {role: answer["length"] for role, answer in found.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{n} bytes through the {role} VIP" for role, n in lengths.items())
        raise errors.TargetFailed(
            f"The VIPs do not serve the same object: {told}.",
            remedy="Put the same members behind both, or name objects of one size.",
        )
    return found, _alike(dataclasses.replace(pair, **sides), profile, crew)


def _alike(pair: Pair, profile: Profile, crew: Crew) -> Pair:
    """The pair without what has another length through one VIP than through the other."""
    for what, url_of in (("tls", "tls"), ("large", "large_url")):
        urls = [getattr(vip, url_of) for vip in (pair.reference, pair.candidate)]
        if what not in profile.needs or None in urls:
            continue
        one, other = (crew.lengths[url] for url in urls)
        if one != other:
            why = f"{urls[0]} has {one} bytes and {urls[1]} {other}: not the same object"
            pair = dataclasses.replace(pair, candidate=pair.candidate.without(what, why))
    return pair


def _plain(vip: Target, crew: Crew) -> dict[str, Any]:
    answer = fetch(vip.url, crew.prober)
    if answer["status"] != 200 or answer["length"] is None:
        raise errors.TargetFailed(
            f"The {vip.role} VIP {vip.url} answers status {answer['status']}, "
            f"Content-Length {answer['length']}; expected 200 with a length "
            f"(body begins {answer['head'][:60]!r})."
        )
    crew.lengths[vip.url] = answer["length"]
    return {
        "address": answer["address"],
        "port": answer["port"],
        "length": answer["length"],
        "head": answer["head"][:80],
    }


def _beside(vip: Target, profile: Profile, crew: Crew) -> Target:
    """The target without what it does not serve."""
    needs = profile.needs
    if "tls" in needs and vip.tls:
        why = _wrong(vip.tls, None, crew)
        if why:
            vip = vip.without("tls", f"the TLS listener of the {vip.role} VIP, {vip.tls}, {why}")
    if "large" in needs and vip.large_url:
        why = _wrong(vip.large_url, None, crew)
        if why:
            vip = vip.without("large", f"{vip.large_url}, the large object, {why}")
    if "objects" in needs and vip.objects:
        for size in profile.sizes:
            path = vip.objects.get(size)
            why = path and _wrong(at_path(vip.url, path), size, crew)
            if why:
                vip = vip.without(
                    "objects", f"{path} of the {vip.role} VIP, an object of {size} bytes, {why}"
                )
                break
    if "udp" in needs and vip.udp:
        stage = next(stage for stage in profile.stages if stage.engine == UdpProbe.name)
        why = _silent(vip, stage, crew)
        if why:
            address, port = vip.udp
            vip = vip.without(
                "udp", f"the UDP listener of the {vip.role} VIP, {address} port {port}, {why}"
            )
    if "iperf3" in needs and vip.iperf3:
        why = _without_iperf3(vip, crew)
        if why:
            address, port = vip.iperf3
            vip = vip.without(
                "iperf3", f"iperf3 to the {vip.role} VIP, {address} port {port}, {why}"
            )
    return vip


def _wrong(url: str, size: int | None, crew: Crew) -> str:
    """What is wrong with an answer; "" when nothing is.

    :param size: bytes of the object; None: whatever it has.
    """
    try:
        answer = fetch(url, crew.prober)
    except errors.TargetFailed as error:
        return f"gives no answer ({error.message})"
    if answer["status"] != 200 or answer["length"] is None:
        return f"answers status {answer['status']}, Content-Length {answer['length']}"
    if size is not None and answer["length"] != size:
        return f"has {answer['length']}"
    crew.lengths[url] = answer["length"]
    return ""


def _silent(vip: Target, stage: Stage, crew: Crew) -> str:
    """Whether not one of a few datagrams of a UDP stage is answered; "" when one is."""
    job = {**UdpProbe()._job(stage, vip), "schedule": [[50.0, 50.0, 0.2]], "warmup": 0.0}
    try:
        report = crew.prober.job(job, seconds=2.0 + float(job.get("timeout", 1.0)))
    except errors.TargetFailed as error:
        return f"cannot be asked ({error.message})"
    if report["answered"]:
        return ""
    seen = ", ".join(f"{count} x {what}" for what, count in report["events"].items())
    return f"answers none of {report['planned']} datagrams" + (f" ({seen})" if seen else "")


def _without_iperf3(vip: Target, crew: Crew) -> str:
    """Why not even a second of iperf3 can be had; "" when it can."""
    address, port = vip.iperf3
    argv = ["iperf3", "--json", "--client", address, "--port", str(port),
            "--connect-timeout", "3000", "--time", "1"]  # fmt: skip
    host = crew.hosts[crew.clients[0].name]

    def run() -> tuple[Result, dict]:
        done = host.run(argv, check=False, timeout=PATIENCE + 5)
        try:
            return done, json.loads(done.stdout)
        except ValueError:
            return done, {}

    try:
        done, report = when_free(run)
    except SriovLbError as error:
        return f"cannot be run ({error.message})"
    if not report:
        said = (done.stderr or done.stdout).strip()[:200]
        return f"cannot be run (status {done.status}: {said or 'no word'})"
    return f"ends with: {report['error']}" if report.get("error") else ""
