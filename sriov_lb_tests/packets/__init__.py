# SPDX-License-Identifier: Apache-2.0
"""Packets: how probes are built, how their answers are read, and the catalogue of classes.

``probe`` builds (scapy; only ``scapy.layers.*``, for ``scapy.all`` costs a second), ``answers``
reads what came back, ``catalogue`` lists packet classes with the fate each deserves and why.
Nothing here touches a network.
"""
