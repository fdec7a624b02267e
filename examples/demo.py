"""The main job on text that every machine has: ``python examples/demo.py FOLDER`` is ``longattn quickstart FOLDER``."""

import sys

from longattn.cli import main

if __name__ == "__main__":
    main(["quickstart", *(sys.argv[1:] or ["demo"])])
