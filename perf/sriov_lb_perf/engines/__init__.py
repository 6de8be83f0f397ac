# SPDX-License-Identifier: Apache-2.0
"""What measures. All keep the protocol in ``base``; ``registry`` knows them by name."""
