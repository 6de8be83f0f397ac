# SPDX-License-Identifier: Apache-2.0
"""What Tempest discovers. Modules are thin here: arrange, observe, compare.

Tempest lists the tests of all plugins in one go, and one module that cannot be imported
makes the whole listing fail, also for who only wanted another plugin's tests. So this
package loads its own modules: one that cannot be imported becomes one test, which is
listed under that module's name and fails with the import's error when it is run.
"""

import pkgutil
import unittest


def load_tests(loader, standard_tests, pattern):
    """The protocol of unittest: fill ``standard_tests`` with this package's tests.

    :param pattern: ignored; what is a test module here is settled by its name, test_*.
    """
    for name in _names():
        try:
            module = __import__(name, fromlist=["*"])
        except unittest.SkipTest as skipped:
            standard_tests.addTest(_unimportable(name, skipped))
        except Exception as error:
            # Whatever an import can raise: a missing library is an ImportError, a broken one
            # can raise anything.
            standard_tests.addTest(_unimportable(name, error))
        else:
            standard_tests.addTests(loader.loadTestsFromModule(module))
    return standard_tests


def _names():
    """Full names of the modules test_* here and below, and of packages that cannot be entered."""
    found = []
    for entry in pkgutil.walk_packages(__path__, f"{__name__}.", onerror=found.append):
        if not entry.ispkg and entry.name.rpartition(".")[2].startswith("test_"):
            found.append(entry.name)
    return sorted(found)


def _unimportable(name, error):
    """A test with an id below ``name`` that raises the error its module raised."""

    def test_import(self):
        if isinstance(error, unittest.SkipTest):
            raise error
        raise ImportError(f"{name} cannot be imported: {error!r}") from error

    test_import.__doc__ = f"{name} can be imported."
    case = type(
        "ModuleCannotBeImported",
        (unittest.TestCase,),
        {"__module__": name, "test_import": test_import},
    )
    return case("test_import")
