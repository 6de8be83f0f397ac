#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Finishes the guests' root: tools are there, nothing of them runs by itself.
set -eu
systemctl disable nginx.service
systemctl mask iperf3.service
systemctl disable nftables.service
