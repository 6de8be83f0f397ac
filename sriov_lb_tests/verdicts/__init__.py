# SPDX-License-Identifier: Apache-2.0
"""What a run concludes: verdicts, the record of them, known defects, the table.

==============  =====================================================================
``model``       the eight verdicts, and what Tempest makes of each
``record``      one line per requirement and test on disk, safe against kill and workers
``defects``     the registry of known defects and how a failure is recognised
``table``       requirement -> verdict -> evidence, merged over the tests of a run
``report``      the same as one self-contained page, and as JSON
``onfile``      the verdicts on file that a gate compares a run with
==============  =====================================================================
"""
