# SPDX-License-Identifier: Apache-2.0
"""What became of probes that may not get anywhere: counters, answers and captures as sentences.

Silence has two reasons. Either the amphora got the packet and let it end there, which is what is
promised, or it never got it, which proves nothing. Counters in the amphora tell which. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import ICMPv6ND_NA, IPv6
from scapy.layers.l2 import ARP, Ether

from sriov_lb_tests.amphora import Stage
from sriov_lb_tests.packets.probe import Identity
from sriov_lb_tests.wire.capture import Frame
from sriov_lb_tests.wire.exchange import Observation, Verdict

#: Errors of a router that found no way on: network or host unreachable, time exceeded. Everything
#: else is the word of somebody who got the packet.
NO_WAY = re.compile(
    r"^(ICMP type (3 code [01]|11 code \d+)|ICMPv6 type (1 code [03]|3 code \d+))$"
)


class Counted(Protocol):
    """Counters inside of the amphora."""

    def of(self, identity: Identity, version: int) -> dict[Stage, int]: ...


@dataclass(frozen=True)
class Reading:
    """What a look at some probes comes to.

    :param broken: the sentence that says what is wrong; "" when nothing is.
    :param unclear: why nothing is proved; "" when all is.
    :param note: what was seen beside it.
    """

    broken: str = ""
    unclear: str = ""
    note: str = ""


def _at(stage: Stage, seen: Observation, counts: Counted) -> bool:
    return any(counts.of(one, seen.probe.version)[stage] for one in seen.identities)


def missing(what: str, seen: Sequence[Observation], counts: Counted, eaten: str) -> str:
    """Which probes never came to the amphora, as a sentence; "" when each did.

    :param eaten: who may have stopped them.
    """
    # What could not be sent at all has no identity, and did not arrive either.
    lost = [one for one in seen if not _at(Stage.ARRIVED, one, counts)]
    if not lost:
        return ""
    return (
        f"{what}: {lost[0].probe} never reached the amphora: {eaten}. So it was with {len(lost)} "
        f"of {len(seen)} probes."
    )


def silence(
    what: str,
    seen: Sequence[Observation],
    counts: Counted,
    *,
    eaten: str,
    refusing: Collection[str] = (),
) -> Reading:
    """Each probe came to the amphora, none passed its filter, and none was answered.

    :param refusing: addresses in whose name the amphora may say that it knows no way on; by
        default nobody may answer anything.
    """
    answered, refused = [], []
    for one in seen:
        for answer in one.answers:
            known = NO_WAY.match(answer.text) and answer.sender in refusing
            (refused if known else answered).append((one, answer))
    passed = [one for one in seen if _at(Stage.PASSED_FILTER, one, counts)]
    note = f"{len(seen)} probes"
    if refused:
        one, answer = refused[0]
        note += (
            f"; {len(refused)} answers say that they were routed and refused, see ISO-004 (the "
            f"first: {answer.text} from {answer.sender} to {one.probe})"
        )
    if answered:
        one, answer = answered[0]
        others = len({id(found) for found, _ in answered}) - 1
        more = f" So were {others} other probes." if others else ""
        return Reading(
            f"{what}: {one.probe} was answered, by {answer.text} from {answer.sender}.{more} "
            f"Evidence: {one.pcap}",
            note=note,
        )
    if passed:
        return Reading(
            f"{what}: {passed[0].probe} passed the filter of the amphora, as counters in it say; "
            f"so it was with {len(passed)} of {len(seen)} probes.",
            note=note,
        )
    unsure = [one for one in seen if one.verdict is Verdict.INCONCLUSIVE]
    unclear = missing(what, seen, counts, eaten) or (f"{what}: {unsure[0]}" if unsure else "")
    return Reading(unclear=unclear, note=note)


def carried(
    what: str,
    seen: Sequence[Observation],
    frames: Sequence[Frame],
    counts: Counted,
    *,
    far: str,
    eaten: str,
) -> Reading:
    """Each probe came to the amphora, and none of them arrived at the far end.

    :param frames: what arrived there.
    :param far: its name.
    """
    through = []
    for one in seen:
        tags = [identity.tag for identity in one.identities]
        ports = {identity.port for identity in one.identities}
        arrived = [
            frame
            for frame in frames
            if any(tag in frame.data for tag in tags) or is_from(frame, one.probe.source, ports)
        ]
        if arrived:
            through.append((one, arrived[0]))
    note = f"{len(through)} of {len(seen)} kinds of packets were forwarded"
    if through:
        one, frame = through[0]
        kinds = ", ".join(found.probe.title for found, _ in through)
        return Reading(
            f"{what}: {one.probe} was forwarded, and arrived at {far} as "
            f"{Ether(frame.data).summary()}. Forwarded: {kinds}.",
            note=note,
        )
    return Reading(unclear=missing(what, seen, counts, eaten), note=note)


# --- addresses -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Station:
    """A port of an amphora, as Neutron and the amphora have it.

    :param allowed: addresses that Neutron lets it send from.
    :param elsewhere: addresses of the same amphora's port on the other side.
    """

    allowed: frozenset[str]
    elsewhere: frozenset[str]


def foreign(
    frames: Sequence[Frame],
    stations: Mapping[str, Station],
    *,
    here: str,
    there: str,
    known: Mapping[str, str],
) -> list[str]:
    """What the ports sent under addresses that are not theirs, a sentence for each address.

    Each says whose the address is: a defect may explain one and not the other.

    :param frames: what came in on the link.
    :param stations: the ports there, by MAC; what others send is their own matter.
    :param here, there: the networks of the link and of the ports on the other side, as words.
    :param known: address -> whose it is, of all others.
    """
    found: dict[tuple[str, str], list[Frame]] = {}
    for frame in frames:
        mac, claimed = mac_of(frame), claims(frame)
        if mac in stations and claimed and claimed not in stations[mac].allowed:
            found.setdefault((mac, claimed), []).append(frame)
    sentences = []
    for (mac, claimed), sent in found.items():
        station = stations[mac]
        version = 6 if ":" in claimed else 4
        if claimed in station.elsewhere:
            whose = f"an address of the same amphora's port on the {there} network"
        else:
            whose = known.get(claimed, "an address of nobody that is known here")
        sentences.append(
            f"The amphora's port {mac} on the {here} network uses the IPv{version} address "
            f"{claimed}, {whose}, which is not an address of that port; its own are "
            f"{', '.join(sorted(station.allowed))}. Frames so sent: {len(sent)}, the first is "
            f"{Ether(sent[0].data).summary()}."
        )
    return sentences


# --- reading frames ------------------------------------------------------------------------------


def mac_of(frame: Frame) -> str:
    """Who sent it on that link."""
    return frame.data[6:12].hex(":")


def is_tcp(frame: Frame, version: int) -> bool:
    """TCP of that IP version: neighbour discovery is no sign of a way."""
    packet = Ether(frame.data)
    return bool(packet.haslayer({4: IP, 6: IPv6}[version]) and packet.haslayer(TCP))


def is_from(frame: Frame, source: str, ports: set[int] | None) -> bool:
    """Whether an IP packet bears that source, and, where given, one of these source ports."""
    packet = Ether(frame.data)
    layer = packet.getlayer(IP) or packet.getlayer(IPv6)
    if layer is None or layer.src != source or packet.haslayer(ICMPv6ND_NA):
        return False
    found = getattr(layer.payload, "sport", None) or getattr(layer.payload, "id", None)
    return ports is None or found in ports


def claims(frame: Frame) -> str:
    """The address under which a frame was sent; "" where there is none to speak of."""
    packet = Ether(frame.data)
    if ARP in packet:
        return "" if packet[ARP].psrc == "0.0.0.0" else packet[ARP].psrc
    if ICMPv6ND_NA in packet:
        claimed = packet[ICMPv6ND_NA].tgt
    else:
        layer = packet.getlayer(IP) or packet.getlayer(IPv6)
        if layer is None:
            return ""
        claimed = layer.src
    return "" if claimed == "::" or claimed.startswith("fe80:") else claimed
