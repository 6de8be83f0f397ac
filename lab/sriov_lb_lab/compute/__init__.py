# SPDX-License-Identifier: Apache-2.0
"""Nova's side of a simulated host: a virt driver for system containers, and two launchers.

``driver.ContainerDriver`` is all Nova sees. Below it, one small module per matter, none of which
knows Nova: ``container`` (an instance's life), ``runner`` (the process that watches over one),
``nspawn``, ``overlay``, ``cgroups``, ``vif``, ``guestfiles``, ``network_config``, ``console``,
``records``. ``launcher`` starts nova-compute with the driver in place; ``sriov_agent`` starts
neutron-sriov-nic-agent with the lab's VFs in the place of the machine's.
"""
