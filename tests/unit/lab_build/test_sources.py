# SPDX-License-Identifier: Apache-2.0
"""Which archives of a host the trees may come from."""

import pytest

from sriov_lb_lab.build import sources
from sriov_lb_lab.build.sources import Entry
from sriov_lb_lab.errors import BuildError

SIGNED = f"[signed-by={sources.KEYRING}]"
DEBIAN_SOURCES = """\
Types: deb deb-src
# a comment inside a stanza
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main non-free-firmware
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb-src
URIs: http://mirror.example/only-sources
Suites: bookworm
Components: main

Enabled: no
Types: deb
URIs: http://mirror.example/disabled/debian
Suites: bookworm
Components: main
"""


def test_deb822_gives_one_entry_for_each_uri_and_suite():
    entries = sources.parse_deb822(DEBIAN_SOURCES)
    assert [(entry.uri, entry.suite) for entry in entries] == [
        ("http://mirror.example/debian", "bookworm"),
        ("http://mirror.example/debian", "bookworm-updates"),
        ("http://mirror.example/debian-security", "bookworm-security"),
    ]
    assert entries[0].components == ("main", "non-free-firmware")


def test_deb822_reads_continuation_lines_and_inlined_keys():
    entries = sources.parse_deb822(
        "Types: deb\nURIs: http://a.example/debian\n http://b.example/debian\nSuites: bookworm\n"
        "Components: main\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQINBF\n")
    assert [entry.uri for entry in entries] == ["http://a.example/debian",
                                                "http://b.example/debian"]
    assert not any(sources.is_debian(entry) for entry in entries)


def test_one_line_entries_with_options_and_comments():
    text = ("# deb http://commented.example/debian bookworm main\n"
            "deb-src http://mirror.example/debian bookworm main\n"
            "deb [arch=amd64 signed-by=/k.gpg] http://third.example/debian bookworm main # x\n"
            "deb http://mirror.example/debian bookworm main contrib\n"
            "deb broken\n")
    assert sources.parse_one_line(text) == [
        Entry("http://third.example/debian", "bookworm", ("main",), "/k.gpg"),
        Entry("http://mirror.example/debian", "bookworm", ("main", "contrib")),
    ]


@pytest.mark.parametrize(("entry", "expected"), [
    (Entry("http://m.example/debian", "bookworm", ("main",)), True),
    (Entry("http://m.example/debian-security/", "bookworm-security", ("main",)), True),
    (Entry("http://m.example/repo", "bookworm", ("main",),
           "/usr/share/keyrings/debian-archive-keyring.gpg"), True),
    # Somebody's archive for Debian, however much it looks like Debian's.
    (Entry("https://dl.example/wine/debian/", "bookworm", ("main",), "/etc/apt/w.key"), False),
    (Entry("https://apt.example", "bookworm", ("main",)), False),
    (Entry("https://download.example/linux/debian", "bookworm", ("stable",)), False),
    (Entry("http://m.example/debian", "bookworm-backports", ("main",)), False),
    (Entry("http://m.example/debian", "trixie", ("main",)), False),
])
def test_what_is_debian(entry, expected):
    assert sources.is_debian(entry) is expected


def test_host_lines_keep_debian_and_drop_third_parties():
    entries = [*sources.parse_deb822(DEBIAN_SOURCES),
               Entry("https://deb.example.com/node", "nodistro", ("main",), "/k.gpg"),
               Entry("http://mirror.example/debian", "bookworm", ("main",))]
    assert sources.host_lines(entries) == (
        f"deb {SIGNED} http://mirror.example/debian bookworm main",
        f"deb {SIGNED} http://mirror.example/debian bookworm-updates main",
        f"deb {SIGNED} http://mirror.example/debian-security bookworm-security main",
    )


def test_host_lines_need_the_release_itself():
    security = Entry("http://m.example/debian-security", "bookworm-security", ("main",))
    release = Entry("http://m.example/debian", "bookworm", ("main",))
    assert sources.host_lines([security]) == ()
    assert len(sources.host_lines([security, release])) == 2


def test_mirror_lists_of_cloud_images_are_resolved():
    entry = Entry("mirror+file:///etc/apt/mirrors/debian.list", "bookworm", ("main",))
    files = {"/etc/apt/mirrors/debian.list": "# first\nhttps://m.example/debian priority:1\n"}

    def read(path):
        try:
            return files[path]
        except KeyError:
            raise FileNotFoundError(path) from None

    resolved = sources.resolve_mirror_list(entry, read)
    assert resolved is not None and resolved.uri == "https://m.example/debian"
    files.clear()
    assert sources.resolve_mirror_list(entry, read) is None
    plain = Entry("http://m.example/debian", "bookworm", ("main",))
    assert sources.resolve_mirror_list(plain, read) is plain


def test_mirror_option_url_and_entries():
    assert sources.mirror_lines("http://m.example/debian") == (
        f"deb {SIGNED} http://m.example/debian bookworm main",
        f"deb {SIGNED} http://m.example/debian bookworm-updates main",
    )
    both = ("deb http://m.example/debian bookworm main; "
            "deb http://m.example/sec bookworm-security main")
    assert sources.mirror_lines(both) == tuple(part.strip() for part in both.split(";"))


@pytest.mark.parametrize("wrong", ["", "mirror.example/debian", "deb onlyone", "ftp://m.example/x",
                                   "http://a.example/debian;http://b.example/debian"])
def test_mirror_option_is_checked(wrong):
    with pytest.raises(BuildError, match="--mirror") as caught:
        sources.mirror_lines(wrong)
    assert repr(wrong) in str(caught.value)


def test_only_transport_settings_of_apt_are_carried():
    dump = ('Acquire "";\nAcquire::Check-Valid-Until "false";\n'
            'Acquire::http::Proxy "http://proxy.example:3128";\n'
            'Acquire::http::Proxy::m.example "DIRECT";\nAcquire::GzipIndexes "true";\n'
            'Acquire::https::CAInfo "";\nAPT::Install-Recommends "true";\n'
            'DPkg::Post-Invoke:: "rm -rf /";\n')
    assert sources.carried_apt_options(dump) == (
        'Acquire::Check-Valid-Until "false"',
        'Acquire::http::Proxy "http://proxy.example:3128"',
        'Acquire::http::Proxy::m.example "DIRECT"',
    )
