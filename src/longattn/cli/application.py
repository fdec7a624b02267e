"""The application that verbs register with, and the parameters that they share."""

from dataclasses import replace
from typing import Annotated

from cyclopts import App, Group, Parameter

from longattn import __version__
from longattn.recipes import Recipe
from longattn.settings import Compute

HELP = """Select long-context training data by measured long-range dependency.

A run goes through plan, cut, measure, select, export, report; "run" does all of it:

    longattn run books=books.jsonl.zst code=src/ --output RUN

Measuring is the long part and is never repeated: stop it at any time, run the
same command again, and choose anew in seconds:

    longattn select RUN --longattn.alpha 1 --keep.share 0.2

Every setting is a flag, a key of a TOML or YAML file (--config), and a variable
(LONGATTN_WINDOW_LENGTH); flags win over variables, variables over files, files
over the recipe.
"""

EPILOGUE = """Exit codes:

* 0: done
* 1: stopped by an error, which is named in one line; what is on disk stays good, and the same command goes on from it
* 2: the command line was not understood, nothing was done
* 3: done, but something was left out: documents or units in quarantine, or values that are no finite numbers
* 130 and 143: stopped by Ctrl-C (SIGINT) or by SIGTERM; the same command goes on
"""

DONE, ERROR, USAGE, LEFT_OUT = 0, 1, 2, 3
"""Exit codes; a signal's is 128 and its number."""

app = App(
    name="longattn",
    help=HELP,
    help_epilogue=EPILOGUE,
    # the page seen first is the one that comes at once: verbs' own pages are Markdown, whose parser is slow to import
    help_format="plaintext",
    version=__version__,
    default_parameter=Parameter(negative_iterable=(), show_env_var=False),
    result_action="return_value",
    suppress_keyboard_interrupt=False,
    group_commands=Group("Other", sort_key=8),
    group_parameters=Group("Parameters", sort_key=9),
)

Inputs = Annotated[str, Parameter(help="Files, folders or globs; SOURCE=PATH names the source.")]
Output = Annotated[str, Parameter(name=("--output", "-o"), help="The run folder, or the address of one in a store.")]
Folder = Annotated[str, Parameter(help="A run folder, or the address of one in a store.")]
Everything = Annotated[Recipe, Parameter(name="*")]
Spread = Annotated[Compute, Parameter(name="*")]
"""How the work is spread: flags without a prefix, since every verb that works has them."""
Device = Annotated[str, Parameter(help="What the model is on: cpu, cuda:0, mps; auto: the first GPU, or the CPU.")]
Threads = Annotated[int | None, Parameter(help="CPU threads; None leaves it to torch.")]
VersionChange = Annotated[
    bool, Parameter(help="Go on with what other versions of the packages that decide the numbers have measured.")
]
AsJson = Annotated[bool, Parameter(name="--json", negative=())]

START = Group("Begin", sort_key=0)
SELECT = Group("Select windows", sort_key=1)
LOOK = Group("Look at them", sort_key=2)
JUDGE = Group("Judge the scorers", sort_key=3)
WATCH = Group("Mind the run", sort_key=4)
TRAIN = Group("Train on them, and see what it did", sort_key=5)
"""What verbs are for, in the order of ``--help``."""


def with_inputs(recipe: Recipe, inputs: tuple[str, ...]) -> Recipe:
    """The recipe with inputs given as words, or else its own; raises ``ValueError`` where there are none."""
    inputs = inputs or recipe.corpus.inputs
    if not inputs:
        raise ValueError("no input given: name files, folders or globs, such as books=data/*.jsonl.zst")
    return replace(recipe, corpus=replace(recipe.corpus, inputs=tuple(inputs)))
