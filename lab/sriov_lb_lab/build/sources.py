# SPDX-License-Identifier: Apache-2.0
"""Which package archive the trees come from.  Pure: text in, ``sources.list`` lines out.

A Debian 12 host names a mirror that is known to work from where it stands, so its own entries are
used, but only Debian's: a host often has third-party archives beside them, and the trees must not
depend on what else somebody installed there.  Every other host gets mmdebstrap's own default.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from sriov_lb_lab.errors import BuildError

SUITE = "bookworm"
_SUITES = (SUITE, f"{SUITE}-updates", f"{SUITE}-security")
#: Whoever the host trusts, these trees come from Debian: the public keys of Debian 12's archive
#: (B8B80B5B623EAB6AD8775C45B7C5D7D6350947F8), security archive
#: (05AB90340C0C5E797F44A8C8254CF3B5AEC0A8F0) and release
#: (4D64FEC119C2029067D6E791F8D2585B8783D481).  Ubuntu 22.04's package of Debian's keys is older
#: than they are.
KEYRING = str(pathlib.Path(__file__).resolve().parent / "debian-12.asc")
#: Transport settings of the host's apt without which it might not reach its mirror, or not believe
#: it (a frozen mirror's Release file is older than its validity).
_CARRIED = re.compile(
    r"^Acquire::(?:"
    r"(?:http|https)::(?:Proxy(?:-Auto-Detect)?|CAInfo|Verify-Peer|Verify-Host|SslCert|SslKey|Timeout)"
    r"(?:::.*)?"
    r"|Check-Valid-Until|Check-Date|Retries|ForceIPv4|ForceIPv6"
    r")$"
)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One binary archive of the host: a URI, one suite, its components, the key that signs it."""

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str = ""


def parse_one_line(text: str) -> list[Entry]:
    """Read ``sources.list`` syntax; ``deb-src`` lines and comments are left out."""
    entries = []
    for raw in text.splitlines():
        line = raw.split("#", 1)[0].strip()
        match = re.match(r"^deb\s+(?:\[(?P<options>[^\]]*)\]\s*)?(?P<rest>\S.*)$", line)
        if match is None:
            continue
        fields = match["rest"].split()
        if len(fields) < 2:
            continue
        options = dict(part.split("=", 1) for part in (match["options"] or "").split()
                       if "=" in part)
        entries.append(Entry(fields[0], fields[1], tuple(fields[2:]),
                             options.get("signed-by", "")))
    return entries


def parse_deb822(text: str) -> list[Entry]:
    """Read ``*.sources`` syntax; disabled stanzas and stanzas of source packages are left out."""
    entries = []
    for stanza in re.split(r"\n[ \t]*\n", text):
        fields: dict[str, str] = {}
        last = ""
        for line in stanza.splitlines():
            if line.startswith("#") or not line.strip():
                continue
            if line[0] in " \t":
                fields[last] = f"{fields.get(last, '')} {line.strip()}"
                continue
            name, _, value = line.partition(":")
            last = name.strip().lower()
            fields[last] = value.strip()
        if "deb" not in fields.get("types", "").split():
            continue
        if fields.get("enabled", "yes").lower() in ("no", "false", "0"):
            continue
        # An inlined key is somebody else's; what matters here is only that it is not Debian's.
        signed_by = "".join(fields.get("signed-by", "").split()[:1])
        entries.extend(
            Entry(uri, suite, tuple(fields.get("components", "").split()), signed_by)
            for uri in fields.get("uris", "").split()
            for suite in fields.get("suites", "").split()
        )
    return entries


def resolve_mirror_list(entry: Entry, read: Callable[[str], str]) -> Entry | None:
    """Replace ``mirror+file:`` (Debian's cloud images) by the first mirror its file names.

    :param read: gives the text of a path; raises OSError.
    :returns: None where the list is missing or empty.
    """
    if not entry.uri.startswith("mirror+file:"):
        return entry
    path = "/" + entry.uri.removeprefix("mirror+file:").lstrip("/")
    try:
        text = read(path)
    except OSError:
        return None
    for line in text.splitlines():
        words = line.split("#", 1)[0].split()
        if words:
            return dataclasses.replace(entry, uri=words[0])
    return None


def is_debian(entry: Entry) -> bool:
    """Tell whether an entry is Debian's bookworm itself rather than somebody's archive for it."""
    if entry.suite not in _SUITES or "main" not in entry.components:
        return False
    if entry.signed_by:
        return "debian-archive" in entry.signed_by
    last = urlsplit(entry.uri).path.rstrip("/").rpartition("/")[2]
    return last.startswith("debian")


def host_lines(entries: Iterable[Entry]) -> tuple[str, ...]:
    """The host's own Debian bookworm archives as one-line entries, component main only.

    :returns: nothing unless the release itself is among them (updates alone cannot make a tree).
    """
    kept = [entry for entry in entries if is_debian(entry)]
    if not any(entry.suite == SUITE for entry in kept):
        return ()
    return tuple(dict.fromkeys(signed(entry.uri, entry.suite) for entry in kept))


def signed(uri: str, suite: str) -> str:
    """An entry for one archive that must be signed by Debian."""
    return f"deb [signed-by={KEYRING}] {uri} {suite} main"


def mirror_lines(mirror: str) -> tuple[str, ...]:
    """Understand the ``--mirror`` option: a URL, or complete entries separated by ``;``.

    A URL stands for the release and its updates on that mirror.  A mirror of Debian does not tell
    where its security archive is; name it with a complete entry where it is wanted.

    :raises BuildError: if it is neither.
    """
    parts = [part.strip() for part in mirror.split(";") if part.strip()]
    if parts and all(part.startswith("deb ") for part in parts):
        if all(parse_one_line(part) for part in parts):
            return tuple(parts)
    elif len(parts) == 1 and urlsplit(parts[0]).scheme in ("http", "https", "file", "copy"):
        return (signed(parts[0], SUITE), signed(parts[0], f"{SUITE}-updates"))
    raise BuildError(
        f"--mirror: expected the URL of a Debian mirror, or entries such as "
        f"'deb URL {SUITE} main' separated by ';', found {mirror!r}",
        "give the URL of the folder that has dists/ and pool/ in it",
    )


def carried_apt_options(dump: str) -> tuple[str, ...]:
    """Pick the transport settings out of what ``apt-config dump`` prints.

    :returns: lines ready for ``--aptopt``.
    """
    options = []
    for line in dump.splitlines():
        match = re.match(r'^(?P<name>\S+) "(?P<value>.*)";$', line.strip())
        if match and match["value"] and _CARRIED.match(match["name"]):
            options.append(f'{match["name"]} "{match["value"]}"')
    return tuple(options)
