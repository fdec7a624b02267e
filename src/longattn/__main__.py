"""``python -m longattn`` is the command line."""

from longattn.cli import main

if __name__ == "__main__":
    main()
