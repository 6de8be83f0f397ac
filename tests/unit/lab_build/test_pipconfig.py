# SPDX-License-Identifier: Apache-2.0
"""How a chroot gets to know the host's package index."""

import pathlib

from sriov_lb_lab.build import pipconfig


def everything(path):
    return True


def nothing(path):
    return False


def test_config_list_environment_wins_over_files_and_install_over_global():
    options = pipconfig.parse_config_list(
        ":env:.find-links='/from/env'\n:env:.cert='/c.pem'\nglobal.cert='/other.pem'\n"
        "global.find-links='/from/file'\nglobal.timeout='10'\ninstall.timeout='20'\n"
        "download.timeout='15'\nfreeze.timeout='99'\nnonsense\n")
    assert options == {"find-links": "/from/env", "cert": "/c.pem", "timeout": "20"}


def test_where_packages_come_from_is_carried_and_the_rest_is_not():
    settings = pipconfig.carry({
        "index-url": "https://user:secret@index.example/simple", "trusted-host": "index.example",
        "proxy": "http://proxy.example:3128", "target": "/somewhere", "require-virtualenv": "true",
        "constraint": "/c.txt", "cache-dir": "/cache",
    }, {}, exists=everything)
    assert settings.environment == {
        "PIP_INDEX_URL": "https://user:secret@index.example/simple",
        "PIP_TRUSTED_HOST": "index.example", "PIP_PROXY": "http://proxy.example:3128",
    }
    assert settings.binds == ()


def test_files_of_the_host_appear_under_one_folder_inside():
    settings = pipconfig.carry(
        {"cert": "/etc/ssl/company.pem", "find-links": "/srv/wheels https://w.example/list"},
        {"SSL_CERT_FILE": "/etc/ssl/company.pem"}, exists=everything)
    mounted = dict(settings.binds)
    cert = settings.environment["PIP_CERT"]
    assert settings.environment["SSL_CERT_FILE"] == cert
    assert str(mounted[pathlib.Path("/etc/ssl/company.pem")]) == cert
    links = settings.environment["PIP_FIND_LINKS"].split()
    assert links[1] == "https://w.example/list"
    assert str(mounted[pathlib.Path("/srv/wheels")]) == links[0]
    assert all(str(inside).startswith("/run/lab-build/") for _, inside in settings.binds)


def test_an_index_in_a_folder_comes_with_the_files_beside_it():
    settings = pipconfig.carry({"extra-index-url": "file:///srv/py%20pi/simple/"}, {},
                               exists=everything)
    ((outside, inside),) = settings.binds
    assert outside == pathlib.Path("/srv/py pi")
    assert settings.environment["PIP_EXTRA_INDEX_URL"] == f"file://{inside}/simple"


def test_what_does_not_exist_is_left_out_and_said():
    options = {"cert": "/gone.pem", "find-links": "/gone", "index-url": "file:///gone/simple"}
    settings = pipconfig.carry(options, {"REQUESTS_CA_BUNDLE": "/gone.pem"}, exists=nothing)
    assert settings.environment == {} and settings.binds == ()
    assert len(settings.skipped) == 4
    assert all("/gone" in sentence for sentence in settings.skipped)
    # The same settings are carried where the files are there.
    assert pipconfig.carry(options, {}, exists=everything).skipped == ()


def test_proxies_and_netrc_are_carried():
    settings = pipconfig.carry({}, {"https_proxy": "http://p.example", "NO_PROXY": "localhost",
                                    "HOME": "/root", "SECRET": "x"},
                               exists=everything, home="/home/me")
    netrc = settings.environment.pop("NETRC")
    assert settings.environment == {"https_proxy": "http://p.example", "NO_PROXY": "localhost"}
    assert [str(inside) for outside, inside in settings.binds] == [netrc]
    assert pipconfig.carry({}, {}, exists=nothing, home="/home/me").environment == {}


def test_a_host_without_pip_is_read_from_its_files(tmp_path):
    first, second = tmp_path / "first.conf", tmp_path / "second.conf"
    first.write_text("[global]\nindex-url = https://one.example/simple\ntimeout = 5\n")
    second.write_text("[global]\nindex-url = https://two.example/simple\n")
    broken = tmp_path / "broken.conf"
    broken.write_text("no section\n")
    options = pipconfig.from_files([first, broken, second, tmp_path / "missing"],
                                   {"PIP_TIMEOUT": "9", "OTHER": "1"})
    assert options == {"index-url": "https://two.example/simple", "timeout": "9"}
