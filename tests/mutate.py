"""mutmut, in an environment where the package is installed for editing: takes what ``mutmut`` takes.

Such an install finds the package before ``sys.path`` is asked, on which mutmut puts its changed copy, so that no change
would be noticed.
"""

import sys

if __name__ == "__main__":
    from mutmut.__main__ import cli

    sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__name__ != "ScikitBuildInplaceFinder"]
    cli(prog_name="mutmut")
