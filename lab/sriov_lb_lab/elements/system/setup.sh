#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Finishes the control plane's root. Runs once, in the tree, when its packages are installed.
set -eu

# Where a lab mounts what is not part of this tree.
mkdir -p /opt/stack /opt/lab /var/lib/lab /var/cache/lab

# A lab makes a database of its own; the one made by the package is never used.
rm -rf /var/lib/mysql
install -d -o mysql -g mysql -m 0700 /var/lib/mysql

# The embedded server, the test suite's plugins and the check tools: never started here.
rm -f /usr/bin/mariadb-embedded /usr/bin/mysql_embedded
