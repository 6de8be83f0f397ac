# SPDX-License-Identifier: Apache-2.0
"""Every error the performance suite raises on purpose.

::

    SriovLbError
    └── PerfError
        ├── BadProfile             the load shape cannot be run as written
        ├── BadTarget              the description of a VIP or a client is wrong
        ├── TargetFailed           the VIP does not answer as it must
        ├── ClientFailed           a client cannot be reached or cannot generate load
        ├── WorkerFailed           a locust child died, never joined or went silent
        ├── NoRoom                 the cloud has no host or no VF free for what is compared
        ├── EngineFailed           a measurement was started and could not be finished
        ├── BadResult              a stored result is damaged or of an unknown version
        ├── HistoryFailed          the history cannot be read or written
        ├── Busy                   another run holds the history
        └── MissingPackage         an optional package is not installed
"""

from __future__ import annotations

from sriov_lb_tests.errors import SriovLbError


class PerfError(SriovLbError):
    """Root of what sriov_lb_perf raises; never raised itself."""

    remedy = "Report this as a bug, with the run's folder."


class BadProfile(PerfError):
    """A profile is missing, breaks the schema, or cannot finish in its time."""

    remedy = "Correct the profile; scenarios/profiles/ holds working ones and their schema."


class BadTarget(PerfError):
    """A target or client description is wrong; nothing was measured."""

    remedy = "Correct the option or the target file named in the message."


class TargetFailed(PerfError):
    """A VIP does not answer, or not with what a measurement needs."""

    remedy = "Check that the load balancer is ACTIVE, its members are ONLINE, and the URL."


class ClientFailed(PerfError):
    """A client cannot be reached, has no usable Python, or lacks a resource."""

    remedy = "The client needs python3 3.8 or newer and ssh access; nothing is installed there."


class WorkerFailed(PerfError):
    """A locust master or worker process died, never joined, or stopped reporting."""

    remedy = "Read the worker's log in the run's folder (logs/)."


class NoRoom(PerfError):
    """Nova finds no host for a load balancer or a client; nothing was measured."""

    remedy = (
        "The comparison needs a free VF for the SR-IOV VIP (two with ACTIVE_STANDBY) and one for "
        "the client, and room for both amphorae, on hosts of the aggregate. What was built was "
        "taken away again."
    )


class EngineFailed(PerfError):
    """A measurement was started and could not be finished."""

    remedy = "What was measured so far is kept in the run's folder, marked incomplete."


class BadResult(PerfError):
    """A stored result is damaged, or was written by a newer version of this tool."""

    remedy = "Restore the file, or use the version of the tool that wrote it."


class HistoryFailed(PerfError):
    """The history cannot be read or written."""

    remedy = "Check the disk and the permissions of the file named in the message."


class Busy(PerfError):
    """Another run holds the history's lock."""

    remedy = "Wait for the other run, or end it; the lock is let go when its process ends."


class MissingPackage(PerfError):
    """Something of the extra ``perf`` is not installed."""

    remedy = "Install it: pip install 'sriov-lb-tests[perf]'."
