#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# What an amphora needs beyond Octavia's elements to be a container. Runs once, in the tree, before
# the elements do.
set -eu
systemctl enable lab-pci.service
# The lab's own firewall rules come from Octavia alone.
systemctl disable nftables.service

# A VF's name in listings is its name alone, as on hardware; the file says why that matters.
dpkg-divert --local --rename --divert /bin/ip.iproute2 --add /bin/ip
ln -s /usr/local/lib/lab/ip /bin/ip

# rsyslog: the kernel's log is the host's.
sed -i 's/^module(load="imklog")/#&/' /etc/rsyslog.conf
