# SPDX-License-Identifier: Apache-2.0
"""Why a job cannot be done."""


class JobError(Exception):
    """A job cannot be done; ``kind`` says whose fault it is.

    ``job`` (bad request of the tester), ``resolve``, ``connect``, ``response`` (the target),
    ``ports``, ``descriptors`` (this machine), ``stopped`` (the tester hung up).
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
