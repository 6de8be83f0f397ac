# SPDX-License-Identifier: Apache-2.0
"""Configuration files of the lab's services: each module renders one service's files from Settings.

Every ``files(settings)`` returns ``{path relative to the lab's etc folder: text}``.
"""
