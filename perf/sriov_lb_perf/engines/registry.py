# SPDX-License-Identifier: Apache-2.0
"""Engines by the name profiles use."""

from __future__ import annotations

from .base import Engine
from .iperf import Bandwidth
from .load import ConnectionRate, ConnectionsHeld, Goodput, RequestRate, TlsRate
from .probe import ConnectProbe, LatencyProbe, UdpProbe
from .search import RateSearch

ENGINES: dict[str, type] = {
    engine.name: engine
    for engine in (
        RequestRate,
        ConnectionRate,
        TlsRate,
        ConnectionsHeld,
        Goodput,
        LatencyProbe,
        ConnectProbe,
        UdpProbe,
        RateSearch,
        Bandwidth,
    )
}


def make(name: str) -> Engine:
    """A fresh engine. The profile's schema knows the names, so an unknown one is a KeyError."""
    return ENGINES[name]()
