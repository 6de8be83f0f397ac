# SPDX-License-Identifier: Apache-2.0
"""Every error the plugin raises on purpose, as one tree.

::

    SriovLbError
    ├── ConfigurationError           what the user wrote; found before anything is created
    │   ├── InvalidConfiguration     carries every Problem at once
    │   └── NotPrepared              what options name is not there; carries all of it at once
    ├── CloudError                   what an API answered, or did not
    │   ├── AuthenticationFailed
    │   ├── ApiUnreachable
    │   ├── ServiceMissing
    │   ├── ApiTooOld
    │   ├── ResourceMissing
    │   ├── ImageNotTagged
    │   ├── QuotaExceeded
    │   ├── ResourceFault            ERROR state, with the service's own fault
    │   ├── StuckPending             PENDING_* or BUILD past the timeout
    │   └── LeftBehind               still there after its deletion
    ├── GuestError                   instances the tester logs in to
    │   ├── GuestUnreachable
    │   ├── SshRefused
    │   ├── GuestTooOld
    │   └── CommandFailed
    │       └── RulesDoNotLoad       nft refuses a file of rules
    ├── WireError                    evidence that could not be taken
    │   ├── SendFailed
    │   ├── CaptureFailed
    │   ├── AgentFailed
    │   └── ControlFailed            the positive control did not come back: INCONCLUSIVE
    ├── PolicyError                  reasoning about rules
    │   ├── UnknownExpression        nftables syntax the model does not know
    │   ├── UnknownListener          a listener the model cannot turn into a policy
    │   └── NotRestored              a fault that was seeded on purpose may still be there
    └── JournalError                 the record of what was created
        ├── JournalUnwritable
        └── JournalCorrupt

The message says what was expected and what was found, naming the option or the
resource id. The ``remedy`` says what the reader should do about it: each class has a
general one, the place that raises may give a better one (``remedy=...``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


class SriovLbError(Exception):
    """Root of the tree; never raised itself.

    :param message: what was expected and what was found, naming option or resource id.
    :param remedy: what to do, when the class's own advice can be improved on.
    """

    remedy = "Report this as a bug of the plugin, with the run's artifacts."

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if remedy is not None:
            self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} Remedy: {self.remedy}"


# --- configuration -----------------------------------------------------------------


class ConfigurationError(SriovLbError):
    """The user's configuration cannot work; nothing was created."""

    remedy = "Correct the configuration; etc/tempest.conf.sriov_lb.sample explains each option."


@dataclass(frozen=True)
class Problem:
    """One wrong or missing option.

    :param option: its full name, such as ``[sriov_lb] vip_physical_network``.
    :param value: what was found; ``None`` and ``""`` both mean "not set".
    :param expected: what the option takes, in words.
    :param remedy: what to write instead, with an example where one helps.
    """

    option: str
    value: object
    expected: str
    remedy: str

    def __str__(self) -> str:
        found = "is not set" if self.value in (None, "", [], ()) else f"is {self.value!r}"
        return f"{self.option} {found}; expected {self.expected}. {self.remedy}"


class InvalidConfiguration(ConfigurationError):
    """One or more options are wrong or missing; ``problems`` holds all of them."""

    remedy = "Correct every option listed; nothing was created."

    def __init__(self, problems: Iterable[Problem], *, remedy: str | None = None) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        lines = "\n".join(f"  - {problem}" for problem in self.problems)
        noun = "option is" if count == 1 else "options are"
        super().__init__(f"{count} {noun} wrong or missing:\n{lines}\n", remedy=remedy)


class NotPrepared(ConfigurationError):
    """The cloud lacks what options name; ``missing`` holds all of the errors."""

    remedy = "Correct every option listed; nothing was created."

    def __init__(self, missing: Iterable[SriovLbError], *, remedy: str | None = None) -> None:
        self.missing = tuple(missing)
        count = len(self.missing)
        # The messages, each with its own remedy.
        lines = "\n".join(f"  - {error}" for error in self.missing)
        verb = "is" if count == 1 else "are"
        message = f"{count} of what the options name {verb} missing:\n{lines}\n"
        super().__init__(message, remedy=remedy)


# --- the cloud -----------------------------------------------------------------------


class CloudError(SriovLbError):
    """A service of the cloud refused, failed or did not answer."""

    remedy = "Look at the service's log for the request id, if one is given."


class AuthenticationFailed(CloudError):
    """Keystone refused the credentials."""

    remedy = "Check user, project, domain and password of the cloud named in the message."


class ApiUnreachable(CloudError):
    """No answer from an endpoint: refused, timed out, unresolvable, or bad TLS."""

    remedy = "Check that the endpoint in the message can be reached from this machine."


class ServiceMissing(CloudError):
    """The service catalogue has no endpoint for a service that is needed."""

    remedy = "Deploy the service, or register its endpoint for this region and interface."


class ApiTooOld(CloudError):
    """The service answers, but with an API version that lacks what is tested."""

    remedy = (
        "SR-IOV VIPs need Octavia API v2.28 or newer, SR-IOV members v2.30: upgrade Octavia, "
        "or exclude the tests that need the newer version."
    )


class ResourceMissing(CloudError):
    """Something the configuration names does not exist, or is not visible to this project."""

    remedy = "Check the id or name, and that the project may see it."


class ImageNotTagged(CloudError):
    """No image carries the tag Octavia boots amphorae from."""

    remedy = "Tag it: openstack image set --tag TAG IMAGE, with [controller_worker] amp_image_tag."


class QuotaExceeded(CloudError):
    """A quota is used up."""

    remedy = "Raise the quota of the project in the message, or run `sriov-lb cleanup` first."


class ResourceFault(CloudError):
    """A resource went to ERROR; ``fault`` is the service's own explanation ("" if none)."""

    remedy = "Read the fault in the message; the run's artifacts hold the API objects."

    def __init__(self, message: str, *, fault: str = "", remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.fault = fault


class StuckPending(CloudError):
    """A resource stayed in a transient state past its timeout."""

    remedy = (
        "Look for a dead worker in the service's logs; if the cloud is only slow, raise the "
        "timeout option named in the message."
    )


class LeftBehind(CloudError):
    """A resource is still there after it was deleted; ``resources`` lists what remains."""

    remedy = "Delete it by hand, and report it: this is a leak of the service in the message."

    def __init__(
        self, message: str, *, resources: Iterable[str] = (), remedy: str | None = None
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.resources = tuple(resources)


# --- guests ----------------------------------------------------------------------------


class GuestError(SriovLbError):
    """An instance that the tester logs in to does not cooperate."""

    remedy = "Look at the instance's console log."


class GuestUnreachable(GuestError):
    """No TCP connection to the guest's ssh port."""

    remedy = (
        "Check [sriov_lb] guest_connect_method and that the security group of the guest lets "
        "in TCP 22 from this machine."
    )


class SshRefused(GuestError):
    """The guest answers, but ssh does not let us in (user, key, or a changed host key)."""

    remedy = "Check the user and key options of [sriov_lb] for this kind of guest."


class GuestTooOld(GuestError):
    """The guest's Python is older than the agent needs, or missing."""

    remedy = "Use an image with python3 3.8 or newer; nothing else has to be installed there."


class CommandFailed(GuestError):
    """A command in a guest ended with a status that was not expected."""

    remedy = "Read the command's output in the message."

    def __init__(
        self,
        message: str,
        *,
        argv: Iterable[str] = (),
        status: int | None = None,
        stdout: str = "",
        stderr: str = "",
        remedy: str | None = None,
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.argv = tuple(argv)
        self.status = status
        self.stdout = stdout
        self.stderr = stderr


class RulesDoNotLoad(CommandFailed):
    """An amphora's file of rules is one that nft refuses, so its next reboot has no rules."""

    remedy = "Let Octavia write the rules again: change one of the listeners."


# --- the wire ----------------------------------------------------------------------------


class WireError(SriovLbError):
    """Evidence could not be taken, so there is no verdict."""

    remedy = "The result is INCONCLUSIVE or ERROR, never a pass; repeat when the cause is gone."


class SendFailed(WireError):
    """Frames were not handed to the interface as asked."""

    remedy = "Check that the interface in the message exists and is up in the guest."


class CaptureFailed(WireError):
    """A capture did not start, was cut short, or lost packets."""

    remedy = "Check that the guest's user may become root, and that the guest is not overloaded."


class AgentFailed(WireError):
    """The agent in the guest died or spoke out of turn."""

    remedy = "Read the agent's own error in the message."


class ControlFailed(WireError):
    """The positive control was not seen, so silence proves nothing."""

    remedy = "Find out why the control in the message did not come back; then repeat the test."


# --- reasoning -----------------------------------------------------------------------------


class PolicyError(SriovLbError):
    """Rules could not be reasoned about."""

    remedy = "The verdict is ERROR: a ruleset that is not understood is never called correct."


class UnknownExpression(PolicyError):
    """An nftables expression the model does not know; ``expression`` is the expression."""

    remedy = "Teach sriov_lb_tests.policy this expression, or report it with the ruleset."

    def __init__(
        self, message: str, *, expression: object = None, remedy: str | None = None
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.expression = expression


class UnknownListener(PolicyError):
    """A listener whose protocol or addresses the model cannot turn into a policy."""

    remedy = "Teach sriov_lb_tests.policy this protocol, or report it with the listener."


class NotRestored(PolicyError):
    """The rules of an amphora that a fault was seeded into are not known to be back."""

    remedy = (
        "Run `sriov-lb mutants --restore DIR`, or let Octavia write the rules again: change one of "
        "the listeners."
    )


# --- the journal -----------------------------------------------------------------------------


class JournalError(SriovLbError):
    """The record of what was created cannot be trusted."""

    remedy = "Nothing was created after this error; see [sriov_lb] journal_dir."


class JournalUnwritable(JournalError):
    """A resource could not be recorded, so it was not created (full disk, no permission)."""

    remedy = "Make room, or point [sriov_lb] journal_dir at a folder that can be written."


class JournalCorrupt(JournalError):
    """A journal on disk cannot be read back."""

    remedy = "Look at the line in the message; everything before it can still be cleaned up."
