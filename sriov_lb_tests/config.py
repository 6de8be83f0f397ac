# SPDX-License-Identifier: Apache-2.0
"""The options of the plugin, all in the group ``[sriov_lb]``.

Light on purpose: Tempest imports this in every run, also in those that do not want our
tests. Each help text says what the option is, why it is there, and gives an example.
``sriov_lb_tests.config_check`` says whether the values make sense together.
"""

from oslo_config import cfg

sriov_lb_group = cfg.OptGroup(
    name="sriov_lb",
    title="SR-IOV load balancers",
    help="What the tests of Octavia's SR-IOV load balancers need to know about the cloud.",
)

# --- the run ---------------------------------------------------------------------------

RUN = [
    cfg.StrOpt(
        "mode",
        default="admin",
        choices=[
            ("admin", "create aggregate, flavors, networks, ports and servers"),
            ("adopt", "use what exists, create only what a project member may create"),
        ],
        help="How the SR-IOV load balancer is provisioned. Administrator mode follows Octavia's "
        "document on SR-IOV step by step and needs administrator credentials; adopt mode takes "
        "the ids of what an administrator prepared (the adopt_* options). Example: adopt",
    ),
    cfg.StrOpt(
        "run_id",
        default="",
        help="Name of this run: part of the name of every resource, of every probe frame and of "
        "the folder of artifacts, so that two runs on one cloud do not meet. Lower-case letters, "
        "digits and dashes, at most 16. Empty: a random one. Example: nightly-0412",
    ),
    cfg.StrOpt(
        "artifacts_dir",
        default="artifacts",
        help="Folder for the evidence (packet captures, rulesets, API objects) and the verdicts "
        "of a run, one folder per run inside. Relative to where tempest runs. Example: "
        "/var/lib/tempest/sriov-lb",
    ),
    cfg.StrOpt(
        "journal_dir",
        default="",
        help="Folder for the journals: each resource is recorded there before it is requested, "
        "which is how `sriov-lb cleanup` finds what a killed run left. Must survive a reboot. "
        "Empty: the folder `journal` in artifacts_dir. Example: /var/lib/sriov-lb/journal",
    ),
    cfg.StrOpt(
        "substrate",
        default="auto",
        choices=[
            ("auto", "not said: reports say so and certify nothing"),
            ("hardware", "VFs of a physical NIC"),
            ("igb", "VFs of an emulated NIC: function only, speed means nothing"),
            ("macvlan", "no VF at all but its closest software relative"),
        ],
        help="What plays the VF on this cloud. It is written into every report, because a result "
        "on anything but hardware certifies nothing. Example: hardware",
    ),
    cfg.StrOpt(
        "octavia_release",
        default="",
        help="Octavia's release, where you know it: the API does not tell, and with it a known "
        "defect is named more surely. Empty: defects are recognised by what they do alone. "
        "Example: 16.0.0",
    ),
    cfg.StrOpt(
        "known_defects_file",
        default="",
        help="YAML file with the signatures of Octavia defects that are already known. A failure "
        "that matches is still a failure, but the report names the defect instead of leaving "
        "you to find it. Empty: the list that comes with the plugin. Example: "
        "/etc/tempest/defects.yaml",
    ),
]

# --- credentials -----------------------------------------------------------------------

CREDENTIALS = [
    cfg.StrOpt(
        "cloud",
        default="",
        help="Entry of clouds.yaml for the project that owns the load balancers, with Octavia's "
        "member role. Set it where Tempest cannot make projects of its own. Empty: Tempest's "
        "credentials. Example: lb-tests",
    ),
    cfg.StrOpt(
        "admin_cloud",
        default="",
        help="Entry of clouds.yaml for the administrator who makes aggregates, flavors and "
        "provider networks. Needed in administrator mode when `cloud` is set. Empty: Tempest's "
        "administrator. Example: admin",
    ),
    cfg.StrOpt(
        "octavia_project",
        default="service",
        help="Name or id of Octavia's service project. The compute flavor of the amphora is "
        "private, so it must be shared with this project or Octavia cannot boot from it. "
        "Example: service",
    ),
    cfg.StrOpt(
        "clouds_file",
        default="",
        help="Path of the clouds.yaml to read. Empty: the places openstacksdk looks in, such as "
        "~/.config/openstack. Example: /etc/openstack/clouds.yaml",
    ),
]

# --- networks made in administrator mode -----------------------------------------------

NETWORKS = [
    cfg.StrOpt(
        "vip_physical_network",
        default="",
        help="Neutron's name of the physical network that carries the VIP, as in "
        "[sriov_nic] physical_device_mappings of the SR-IOV agents. Needed in administrator "
        "mode. Example: physnet1",
    ),
    cfg.StrOpt(
        "vip_network_type",
        default="flat",
        choices=["flat", "vlan"],
        help="Type of the provider network made for the VIP. SR-IOV ports know no overlay. "
        "Example: vlan",
    ),
    cfg.IntOpt(
        "vip_segmentation_id",
        default=0,
        help="VLAN of the VIP network; 0 with a flat one. Example: 113",
    ),
    cfg.StrOpt(
        "vip_cidr_v4",
        default="203.0.113.0/24",
        help="IPv4 subnet made on the VIP network. Nothing is routed: the client sits on it. "
        "Empty: no IPv4. Example: 203.0.113.0/24",
    ),
    cfg.StrOpt(
        "vip_cidr_v6",
        default="2001:db8:113::/64",
        help="IPv6 subnet made on the VIP network. Empty: IPv6 is not tested. "
        "Example: 2001:db8:113::/64",
    ),
    cfg.StrOpt(
        "member_physical_network",
        default="",
        help="Physical network that carries the members. Needed in administrator mode; may be "
        "the VIP's where both are VLANs. Example: physnet2",
    ),
    cfg.StrOpt(
        "member_network_type",
        default="flat",
        choices=["flat", "vlan"],
        help="Type of the provider network made for the members. Example: vlan",
    ),
    cfg.IntOpt(
        "member_segmentation_id",
        default=0,
        help="VLAN of the member network; 0 with a flat one. Example: 114",
    ),
    cfg.StrOpt(
        "member_cidr_v4",
        default="198.51.100.0/24",
        help="IPv4 subnet made on the member network. Empty: no IPv4. Example: 198.51.100.0/24",
    ),
    cfg.StrOpt(
        "member_cidr_v6",
        default="2001:db8:100::/64",
        help="IPv6 subnet made on the member network. Empty: no IPv6 members. "
        "Example: 2001:db8:100::/64",
    ),
]

# --- what the amphora boots from, in administrator mode ----------------------------------

AMPHORA = [
    cfg.ListOpt(
        "sriov_hosts",
        default=[],
        help="Compute hosts that go into the host aggregate. Empty: every host whose SR-IOV "
        "agent is alive. Example: compute-1,compute-2",
    ),
    cfg.ListOpt(
        "aggregate_properties",
        default=["sriov-nic=true"],
        help="Properties of the host aggregate, and equally of the compute flavor: they are what "
        "sends an amphora to a host that has VFs. Pairs KEY=VALUE; name networks where hosts "
        "differ. Example: public-sriov=true,members-sriov=true",
    ),
    cfg.ListOpt(
        "flavor_properties",
        default=[],
        help="Properties of the compute flavor alone, for what the cloud's hypervisor wants. "
        "Pairs KEY=VALUE. Example: hw_rng:allowed=True,hw:cpu_policy=dedicated",
    ),
    cfg.IntOpt(
        "amphora_ram",
        default=1024,
        min=1,
        help="Memory of the compute flavor of the amphora in MiB; the document's example, enough "
        "for these tests. Example: 2048",
    ),
    cfg.IntOpt(
        "amphora_disk",
        default=3,
        min=0,
        help="Disk of the compute flavor of the amphora in GiB; at least the image's min_disk. "
        "Example: 3",
    ),
    cfg.IntOpt(
        "amphora_vcpus",
        default=1,
        min=1,
        help="Virtual CPUs of the compute flavor of the amphora; haproxy uses all of them. "
        "Example: 4",
    ),
    cfg.StrOpt(
        "amphora_image_tag",
        default="amphora",
        help="Tag of the Glance image Octavia boots amphorae from, as in [controller_worker] "
        "amp_image_tag. Without an image so tagged no load balancer can be built, so it is "
        "looked for first. Example: amphora",
    ),
    cfg.StrOpt(
        "loadbalancer_topology",
        default="SINGLE",
        choices=["SINGLE", "ACTIVE_STANDBY"],
        help="Topology of the load balancers that the tests share; tests that need the other one "
        "build their own. Example: ACTIVE_STANDBY",
    ),
    cfg.BoolOpt(
        "allow_member_sriov",
        default=False,
        help="Whether the flavor made for the tests also allows VFs towards the members "
        "(allow_member_sriov, Octavia API v2.30). The hosts then need VFs on "
        "member_physical_network too. Example: true",
    ),
]

# --- how the amphora is looked into --------------------------------------------------------

AMPHORA_ACCESS = [
    cfg.BoolOpt(
        "amphora_ssh",
        default=False,
        help="Whether the tests may log in to amphorae by ssh and read rulesets, interfaces and "
        "counters. Needs [controller_worker] amp_ssh_key_name in Octavia. Without it everything "
        "that can be seen from outside is tested and the rest is skipped. Example: true",
    ),
    cfg.StrOpt(
        "amphora_user",
        default="ubuntu",
        help="User of the amphora image; sudo must not ask. It depends on the distribution the "
        "image was built from. Example: cloud-user",
    ),
    cfg.StrOpt(
        "amphora_key_file",
        default="",
        help="Private key that belongs to Octavia's amp_ssh_key_name. Needed with amphora_ssh. "
        "Example: /etc/octavia/.ssh/octavia_ssh_key",
    ),
    cfg.StrOpt(
        "amphora_connect_method",
        default="fixed",
        choices=[
            ("fixed", "the management address, which this machine can reach"),
            ("jump", "the management address, through jump_host"),
        ],
        help="How the amphora's address on the load balancer management network is reached. "
        "Example: jump",
    ),
]

# --- guests: the client, which sends probes, and the members -------------------------------

GUESTS = [
    cfg.StrOpt(
        "guest_image",
        default="",
        help="Image of the client and member servers, id or name. It needs Python 3.8 and a user "
        "who may become root; nothing is installed and no internet is used, so cirros will not "
        "do but any distribution's cloud image will. Example: debian-12",
    ),
    cfg.StrOpt(
        "guest_flavor",
        default="",
        help="Compute flavor of the client and member servers, id or name. Example: m1.small",
    ),
    cfg.StrOpt(
        "guest_user",
        default="debian",
        help="User of guest_image that the key is injected for; sudo must not ask. Example: ubuntu",
    ),
    cfg.StrOpt(
        "guest_key_file",
        default="",
        help="Private key for guests that exist already (adopt_client_*, adopt_member_*). "
        "Servers made for the run get a key pair made for the run. Example: /root/.ssh/id_ed25519",
    ),
    cfg.StrOpt(
        "member_image",
        default="",
        help="Image of the member servers where it differs. Empty: guest_image. "
        "Example: ubuntu-24.04",
    ),
    cfg.StrOpt(
        "member_flavor",
        default="",
        help="Compute flavor of the member servers where it differs. Empty: guest_flavor. "
        "Example: m1.medium",
    ),
    cfg.StrOpt(
        "member_user",
        default="",
        help="User of member_image. Empty: guest_user. Example: ubuntu",
    ),
    cfg.StrOpt(
        "guest_connect_method",
        default="fixed",
        choices=[
            ("fixed", "the address on access_network, which this machine can reach"),
            ("floating", "a floating address for the port on access_network"),
            ("jump", "the address on access_network, through jump_host"),
        ],
        help="How guests are reached by ssh. Example: floating",
    ),
    cfg.StrOpt(
        "access_network",
        default="",
        help="Network, id or name, that each guest gets a port on for ssh. A network of its own, "
        "so that the probes' network carries nothing but probes. Example: private",
    ),
    cfg.StrOpt(
        "floating_network",
        default="",
        help="External network of the floating addresses. Needed when guest_connect_method is "
        "floating. Example: public",
    ),
    cfg.StrOpt(
        "jump_host",
        default="",
        help="Name or address of the ssh proxy. Needed where a connect method is jump. "
        "Example: bastion.example.org",
    ),
    cfg.PortOpt(
        "jump_port", default=22, help="TCP port that the ssh proxy listens on. Example: 2222"
    ),
    cfg.StrOpt("jump_user", default="", help="User to log in as on the ssh proxy. Example: stack"),
    cfg.StrOpt(
        "jump_key_file",
        default="",
        help="Private key for the ssh proxy. Needed where a connect method is jump. "
        "Example: /root/.ssh/bastion",
    ),
]

# --- adopt mode ----------------------------------------------------------------------------

ADOPT = [
    cfg.StrOpt(
        "adopt_sriov_flavor_id",
        default="",
        help="Octavia flavor, id, whose profile has sriov_vip. Needed in adopt mode. "
        "Example: 0b6b0d0e-9ab0-4d07-b4cf-4a4f8a0c0b7d",
    ),
    cfg.StrOpt(
        "adopt_normal_flavor_id",
        default="",
        help="Octavia flavor, id, for the normal twin; best the same but for sriov_vip. Empty: "
        "Octavia's default. Example: 5f3c9e7a-4d19-44b7-9df5-7a3e8b0a6f12",
    ),
    cfg.StrOpt(
        "adopt_vip_network_id",
        default="",
        help="Network of the VIP, id, on a physical network with VFs and with port security on. "
        "Needed in adopt mode; in administrator mode it takes the place of the network that is "
        "made, for physical networks that can carry one only. "
        "Example: d4f0a1c2-71c0-4d57-8cb6-9a1b8b3d5e21",
    ),
    cfg.ListOpt(
        "adopt_vip_subnet_ids",
        default=[],
        help="Subnets of that network, ids, to take VIPs from: one IPv4, one IPv6, or both. "
        "Needed in adopt mode. Example: 6a1f3b54-0f0f-4f4e-8a52-0d3f5a7f9c10",
    ),
    cfg.StrOpt(
        "adopt_member_network_id",
        default="",
        help="Network of the members, id. Empty: the VIP's network (one-arm); in administrator "
        "mode one is made. "
        "Example: 8c2e6d7f-3a55-4e0e-9f1b-2b7c4d6e8f90",
    ),
    cfg.ListOpt(
        "adopt_member_subnet_ids",
        default=[],
        help="Subnets of the member network, ids. Empty: all of that network's. "
        "Example: 1d2c3b4a-5f6e-4788-9a0b-c1d2e3f4a5b6",
    ),
    cfg.ListOpt(
        "adopt_client_ids",
        default=[],
        help="Servers, ids, with a port on the VIP network that play the client. Empty: servers "
        "are made from guest_image. Example: 2e4d6c8a-1b3f-4a5c-8d7e-9f0a1b2c3d4e",
    ),
    cfg.ListOpt(
        "adopt_member_ids",
        default=[],
        help="Servers, ids, with a port on the member network that play the members. Empty: "
        "servers are made from guest_image. Example: 7a8b9c0d-2e3f-4b5a-9c8d-0e1f2a3b4c5d",
    ),
]

# --- what may be done, and how long it may take --------------------------------------------

LIMITS = [
    cfg.BoolOpt(
        "disruptive",
        default=False,
        help="Whether tests may do what others may notice: take every free VF of the hosts and "
        "make aggregates without hosts (PRV-006, PRV-009, REF-006, REF-007), and reboot, stop and "
        "fail over amphorae, of load balancers of the run alone (LIF-011 to LIF-016, PAI-002, "
        "PAI-003, PAI-006, PAI-008, PAI-010). On a cloud in use: on, with the four former left out "
        "by `tempest run --exclude-regex`. Example: true",
    ),
    cfg.BoolOpt(
        "slow",
        default=False,
        help="Whether tests that take many minutes each run too, such as ten load balancers in a "
        "row on the last free VF. Example: true",
    ),
    cfg.StrOpt(
        "matrix",
        default="pairwise",
        choices=[
            ("pairwise", "every two values of any two factors meet, but for values that take long"),
            (
                "full",
                "every load balancer that is possible, with each protocol and each set of CIDRs "
                "that it can have on some listener: for nightly runs",
            ),
            (
                "product",
                "every load balancer that is possible, with each protocol with each set of CIDRs: "
                "days, so run one test of it a night",
            ),
        ],
        help="How much of the matrix (scenarios/matrices) runs. Example: full",
    ),
    cfg.StrOpt(
        "tls_container_ref",
        default="",
        help="Certificate for TERMINATED_HTTPS listeners, as Octavia's default_tls_container_ref "
        "takes it: a Barbican secret or container that Octavia may read. Empty: the listener is "
        "asked for without one, and Octavia's refusal is recorded. Example: "
        "https://barbican.example.org/v1/secrets/9f3c1f0c-6a54-4f1c-8f0f-2b7f0f7f1d11",
    ),
    cfg.IntOpt(
        "lb_build_timeout",
        default=300,
        min=1,
        help="Seconds a load balancer may take to become ACTIVE after its creation; past that it "
        "is reported as stuck. Half a minute is usual. Example: 600",
    ),
    cfg.IntOpt(
        "lb_change_timeout",
        default=120,
        min=1,
        help="Seconds a change of a listener, pool or member may keep a load balancer pending. "
        "Example: 240",
    ),
    cfg.IntOpt(
        "server_build_timeout",
        default=300,
        min=1,
        help="Seconds a client or member server may take to become ACTIVE. Example: 600",
    ),
    cfg.IntOpt(
        "delete_timeout",
        default=300,
        min=1,
        help="Seconds a deletion may take, of anything; past that it is reported as left behind. "
        "Example: 600",
    ),
    cfg.IntOpt(
        "ssh_timeout",
        default=180,
        min=1,
        help="Seconds from ACTIVE until a guest lets us in by ssh. Example: 300",
    ),
    cfg.FloatOpt(
        "check_interval",
        default=1.0,
        min=0.05,
        help="Seconds between two looks at a resource that is waited for. Example: 2.5",
    ),
    cfg.FloatOpt(
        "probe_timeout",
        default=1.0,
        min=0.01,
        help="Seconds an answer to a probe frame is waited for. The controls before and after it, "
        "which prove the path, may be 1 s apart at most, whatever this is. Example: 3",
    ),
    cfg.IntOpt(
        "probe_count",
        default=3,
        min=1,
        help="Copies of each probe frame. More make a lossy network bearable: one answer is an "
        "answer. Example: 5",
    ),
]

# --- performance ---------------------------------------------------------------------------

PERFORMANCE = [
    cfg.BoolOpt(
        "performance",
        default=False,
        help="Whether the SR-IOV load balancer is compared with its normal twin under load. "
        "Takes minutes and needs the extra `perf`. Example: true",
    ),
    cfg.StrOpt(
        "performance_profile",
        default="smoke",
        help="Load profile: a name from scenarios/profiles of the project, or the path of a YAML "
        "file. Example: standard",
    ),
    cfg.FloatOpt(
        "performance_min_rate_ratio",
        default=0.0,
        min=0.0,
        help="The comparison fails when requests per second through the SR-IOV VIP, divided by "
        "those through the normal VIP, are surely below this. 0: report only. Example: 1.5",
    ),
    cfg.FloatOpt(
        "performance_max_latency_ratio",
        default=0.0,
        min=0.0,
        help="The comparison fails when the median latency through the SR-IOV VIP, divided by "
        "that through the normal VIP, is surely above this. 0: report only. Example: 0.8",
    ),
]

SriovLbGroup = [
    *RUN,
    *CREDENTIALS,
    *NETWORKS,
    *AMPHORA,
    *AMPHORA_ACCESS,
    *GUESTS,
    *ADOPT,
    *LIMITS,
    *PERFORMANCE,
]


def list_opts():
    """Answer oslo-config-generator and Tempest: [(group, [option, ...])]."""
    return [(sriov_lb_group, SriovLbGroup)]
