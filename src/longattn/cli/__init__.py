"""The command line: one verb per stage, made from typed functions; everything heavy is imported when it is used."""

from longattn.cli import evaluating, judging, looking, mixing, reproducing, selecting, starting, training, watching
from longattn.cli.application import app
from longattn.cli.launching import launch, main

VERBS = (starting, selecting, looking, judging, watching, mixing, training, evaluating, reproducing)
"""Modules of verbs; each registers its own with the application when it is imported."""

for verb in app:
    app[verb].help_format = "markdown"

__all__ = ["VERBS", "app", "launch", "main"]
