# SPDX-License-Identifier: Apache-2.0
"""The services of a lab, as programs of its process supervisor (supervisord)."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field

from sriov_lb_lab.paths import INSIDE_CODE, INSIDE_LAB, INSIDE_STACK
from sriov_lb_lab.settings import CONTROLLER, HOSTS, Host, Settings

ETC = f"{INSIDE_LAB}/etc"
BIN = f"{INSIDE_STACK}/bin"
# Written by bootstrap: users and endpoints exist; networks, images and the rest exist too.
IDENTIFIED = f"{INSIDE_LAB}/identified"
BOOTSTRAPPED = f"{INSIDE_LAB}/bootstrapped"
MYSQL_SOCKET = "/run/lab/mysql.sock"

ENVIRONMENT = {
    "PATH": f"{BIN}:/usr/sbin:/usr/bin:/sbin:/bin",
    "PYTHONPATH": str(INSIDE_CODE),
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "PYTHONUNBUFFERED": "1",
    "PYTHONWARNINGS": "ignore",
    # Thirty Python processes with the default eight arenas per core cost half a gigabyte more.
    "MALLOC_ARENA_MAX": "2",
    "OVS_PKGDATADIR": "/usr/share/openvswitch",
}

DATABASE = f"tcp:{CONTROLLER}:3306"
BROKER = f"tcp:{CONTROLLER}:5672"
KEYSTONE = f"tcp:{CONTROLLER}:5000"


@dataclass(frozen=True)
class Program:
    """One service.

    :param name: also the name of its log.
    :param argv: the command, as seen inside the lab.
    :param after: conditions of :mod:`sriov_lb_lab.awaits` that must hold before it starts.
    :param host: the simulated host it runs on, or None for the controller.
    :param url: an HTTP address that answers (any status below 500) when it is well, or "".
    :param environment: additions to :data:`ENVIRONMENT`.
    """

    name: str
    argv: list[str]
    after: list[str] = field(default_factory=list)
    host: str | None = None
    url: str = ""
    environment: dict[str, str] = field(default_factory=dict)

    def command(self) -> list[str]:
        """What the supervisor runs."""
        argv = self.argv
        if self.host:
            argv = ["nsenter", f"--net=/run/netns/{self.host}", "--", *argv]
        if self.after:
            waits = ["python3", "-S", f"{INSIDE_CODE}/sriov_lb_lab/awaits.py", *self.after, "--"]
            argv = [*waits, *argv]
        return argv


def storage() -> list[Program]:
    """MariaDB alone: what the making of the database template needs."""
    return [
        Program(
            "mariadb",
            [
                "/usr/sbin/mariadbd", "--no-defaults", "--user=root",
                f"--datadir={INSIDE_LAB}/mysql", f"--socket={MYSQL_SOCKET}",
                f"--bind-address={CONTROLLER}", "--port=3306", "--pid-file=/run/lab/mysql.pid",
                "--skip-log-bin", "--skip-name-resolve", "--performance-schema=off",
                "--innodb-buffer-pool-size=256M", "--innodb-flush-log-at-trx-commit=0",
                # A lab's data end with the lab: nothing has to survive a power cut.
                "--innodb-flush-method=nosync", "--innodb-doublewrite=0",
                "--max-connections=2000", "--character-set-server=utf8mb4",
            ],
        )
    ]  # fmt: skip


def _broker() -> Program:
    home = f"{INSIDE_LAB}/rabbitmq"
    return Program(
        "rabbitmq",
        ["/usr/lib/rabbitmq/bin/rabbitmq-server"],
        environment={
            "HOME": home,
            "RABBITMQ_NODENAME": "rabbit@localhost",
            "RABBITMQ_MNESIA_BASE": f"{home}/mnesia",
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONFIG_FILE": f"{ETC}/rabbitmq/rabbitmq.conf",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{ETC}/rabbitmq/enabled_plugins",
            "RABBITMQ_PID_FILE": "/run/lab/rabbitmq.pid",
            # Erlang's schedulers spin by default; there are two cores for everybody.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +sbwtdcpu none +sbwtdio none",
        },
    )


def _api(
    name: str, port: int, module: str, after: list[str], environment: dict[str, str],
    arguments: list[str] | None = None,
) -> Program:  # fmt: skip
    return Program(
        name,
        [
            "/usr/bin/uwsgi-core", "--plugins-dir", "/usr/lib/uwsgi/plugins",
            "--plugin", "python311", "--http-socket", f"{CONTROLLER}:{port}",
            "--processes", "1", "--threads", "8", "--enable-threads", "--single-interpreter",
            "--need-app", "--die-on-term", "--buffer-size", "65535", "--disable-logging",
            "--add-header", "Connection: close",
            "--virtualenv", str(INSIDE_STACK), "--module", module, *(arguments or []),
        ],
        after=after,
        url=f"http://{CONTROLLER}:{port}/",
        environment=environment,
    )  # fmt: skip


def control_plane() -> list[Program]:
    """Everything of the controller."""
    neutron_files = [
        "--config-file", f"{ETC}/neutron/neutron.conf", "--config-file",
        f"{ETC}/neutron/ml2_conf.ini",
    ]  # fmt: skip
    nova = ["--config-file", f"{ETC}/nova/nova.conf"]
    octavia = ["--config-file", f"{ETC}/octavia/octavia.conf"]
    both = [DATABASE, BROKER]
    return [
        *storage(),
        _broker(),
        _api("keystone", 5000, "keystone.wsgi.api:application", [DATABASE],
             {"OS_KEYSTONE_CONFIG_DIR": f"{ETC}/keystone"}),
        _api("placement", 8778, "placement.wsgi.api:application", [DATABASE, KEYSTONE],
             {"OS_PLACEMENT_CONFIG_DIR": f"{ETC}/placement"}),
        _api("glance", 9292, "glance.wsgi.api:application", [DATABASE, KEYSTONE],
             {"OS_GLANCE_CONFIG_DIR": f"{ETC}/glance"}),
        _api("neutron-api", 9696, "neutron.wsgi.api:application", [*both, KEYSTONE],
             {"OS_NEUTRON_CONFIG_DIR": f"{ETC}/neutron",
              "OS_NEUTRON_CONFIG_FILES": "neutron.conf;ml2_conf.ini"}),
        _api("nova-api", 8774, "nova.wsgi.osapi_compute:application", [*both, KEYSTONE],
             {"OS_NOVA_CONFIG_DIR": f"{ETC}/nova"}),
        Program("neutron-rpc", [f"{BIN}/neutron-rpc-server", *neutron_files], both),
        Program("neutron-periodic", [f"{BIN}/neutron-periodic-workers", *neutron_files], both),
        Program("nova-conductor", [f"{BIN}/nova-conductor", *nova], both),
        Program("nova-scheduler", [f"{BIN}/nova-scheduler", *nova], [*both, f"file:{IDENTIFIED}"]),
        _api("octavia-api", 9876, "sriov_lb_lab.octavia_api:application",
             [*both, f"file:{BOOTSTRAPPED}"],
             {"SRIOV_LB_LAB_OCTAVIA_CONF": f"{ETC}/octavia/octavia.conf"}),
        *(
            Program(f"octavia-{name}", [f"{BIN}/octavia-{name}", *octavia],
                    [*both, f"file:{BOOTSTRAPPED}"])
            for name in ("worker", "health-manager", "housekeeping")
        ),
    ]  # fmt: skip


def compute_host(host: Host) -> list[Program]:
    """Everything of a simulated host."""
    run = {"OVS_RUNDIR": host.ovs_run, "OVS_LOGDIR": host.ovs_run}
    neutron = ["--config-file", f"{ETC}/neutron-{host.name}/neutron.conf"]
    db_socket = f"{host.ovs_run}/db.sock"
    environment = {"SRIOV_LB_LAB_HOST_FILE": f"{INSIDE_LAB}/hosts/{host.name}.json", **run}
    programs = [
        Program(
            f"{host.name}.ovsdb",
            ["ovsdb-server", f"{INSIDE_LAB}/hosts/{host.name}/ovs/conf.db",
             f"--remote=punix:{db_socket}", f"--pidfile={host.ovs_run}/ovsdb-server.pid",
             "--unixctl=" + f"{host.ovs_run}/ovsdb-server.ctl"],
            host=host.name, environment=run,
        ),
        Program(
            f"{host.name}.vswitchd",
            ["ovs-vswitchd", host.ovsdb, "--disable-system",
             f"--pidfile={host.ovs_run}/ovs-vswitchd.pid",
             "--unixctl=" + f"{host.ovs_run}/ovs-vswitchd.ctl"],
            [f"socket:{db_socket}"], host=host.name, environment=run,
        ),
        Program(
            f"{host.name}.neutron-ovs-agent",
            [f"{BIN}/python", "-m", "sriov_lb_lab.switch", host.name, "--",
             f"{BIN}/neutron-openvswitch-agent", *neutron,
             "--config-file", f"{ETC}/neutron-{host.name}/openvswitch_agent.ini"],
            [f"socket:{db_socket}", BROKER], host=host.name, environment=environment,
        ),
        Program(
            f"{host.name}.nova-compute",
            [f"{BIN}/python", "-m", "sriov_lb_lab.compute.launcher",
             "--config-file", f"{ETC}/nova-{host.name}/nova.conf"],
            [f"socket:{db_socket}", BROKER, f"file:{IDENTIFIED}"], host=host.name,
            environment=environment,
        ),
    ]  # fmt: skip
    if host.sriov:
        programs.append(
            Program(
                f"{host.name}.neutron-sriov-agent",
                [f"{BIN}/python", "-m", "sriov_lb_lab.compute.sriov_agent", *neutron,
                 "--config-file", f"{ETC}/neutron-{host.name}/sriov_agent.ini"],
                [BROKER], host=host.name, environment=environment,
            )
        )  # fmt: skip
    return programs


def everything() -> list[Program]:
    """All services of a lab, the controller's first."""
    return [*control_plane(), *(p for host in HOSTS for p in compute_host(host))]


def supervisor_conf(programs: list[Program]) -> str:
    """supervisord's configuration file."""
    lines = [
        "[unix_http_server]",
        f"file = {INSIDE_LAB}/supervisor.sock",
        "chmod = 0700",
        "",
        "[supervisord]",
        "nodaemon = true",
        "user = root",
        f"logfile = {INSIDE_LAB}/log/supervisord.log",
        "pidfile = /run/supervisord.pid",
        "logfile_maxbytes = 10MB",
        f"childlogdir = {INSIDE_LAB}/log",
        "",
        "[rpcinterface:supervisor]",
        "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface",
        "",
    ]
    for program in programs:
        variables = {**ENVIRONMENT, **program.environment}
        quoted = ",".join(f'{key}="{value}"' for key, value in variables.items())
        lines += [
            f"[program:{program.name}]",
            "command = " + shlex.join(program.command()).replace("%", "%%"),
            f"environment = {quoted}",
            "directory = /",
            "autorestart = true",
            "startsecs = 2",
            "startretries = 5",
            "stopwaitsecs = 8",
            "stopasgroup = true",
            "killasgroup = true",
            "redirect_stderr = true",
            f"stdout_logfile = {INSIDE_LAB}/log/{program.name}.log",
            "stdout_logfile_maxbytes = 50MB",
            "stdout_logfile_backups = 1",
            "",
        ]
    return "\n".join(lines)


def rabbitmq_files(settings: Settings) -> dict[str, str]:
    """RabbitMQ's own configuration."""
    return {
        "rabbitmq/rabbitmq.conf": "\n".join(
            [
                f"listeners.tcp.default = {CONTROLLER}:5672",
                "loopback_users = none",
                "default_user = openstack",
                f"default_pass = {settings.passwords['rabbit']}",
                "vm_memory_high_watermark.absolute = 1GB",
                "disk_free_limit.absolute = 50MB",
                "",
            ]
        ),
        "rabbitmq/enabled_plugins": "[].\n",
    }
