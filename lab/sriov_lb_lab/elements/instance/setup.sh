#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Finishes what all instances have in common. Runs once, in the tree, when its packages are installed.
set -eu

# The user of Debian's cloud images: the number is fixed, so that keys can be put into its home from
# outside. "*" is a password that nobody has; "!" would lock the account for keys, too.
useradd --uid 1000 --user-group --create-home --shell /bin/bash debian
usermod --password '*' debian
install -d -o debian -g debian -m 0700 /home/debian/.ssh

# Keys made by the package would be the same in all instances.
rm -f /etc/ssh/ssh_host_*

# multi-user.target, addresses from units, and nothing that waits for a network to be "online".
systemctl set-default multi-user.target
systemctl enable systemd-networkd.service ssh.service
systemctl mask systemd-networkd-wait-online.service systemd-network-generator.service
# These match interfaces by kind and would give them an address of their own.
for unit in 80-container-host0.network 80-container-vb.network 80-container-ve.network \
            80-container-vz.network 80-vm-vt.network 80-6rd-tunnel.network 80-wifi-adhoc.network; do
    ln -sf /dev/null "/etc/systemd/network/$unit"
done

# Nothing of this has a meaning in a container of a lab, and each of it costs time at boot or wakes
# up in the middle of a measurement.
for unit in \
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
    fstrim.timer systemd-tmpfiles-clean.timer man-db.timer \
    getty.target getty-static.service console-getty.service getty@.service serial-getty@.service \
    container-getty@.service systemd-logind.service systemd-firstboot.service \
    systemd-homed.service systemd-userdbd.socket systemd-pstore.service systemd-udevd.service \
    systemd-udev-trigger.service systemd-update-utmp.service systemd-update-utmp-runlevel.service \
    systemd-machine-id-commit.service systemd-random-seed.service systemd-boot-system-token.service \
    systemd-binfmt.service systemd-modules-load.service proc-sys-fs-binfmt_misc.automount \
    sys-kernel-config.mount sys-kernel-debug.mount sys-kernel-tracing.mount dev-hugepages.mount \
    dev-mqueue.mount sys-fs-fuse-connections.mount systemd-ask-password-wall.path \
    systemd-ask-password-console.path; do
    ln -sf /dev/null "/etc/systemd/system/$unit"
done
mkdir -p /var/log/journal
