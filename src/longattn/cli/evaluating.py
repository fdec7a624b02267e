"""The verbs that ask what a checkpoint makes of a long context."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from longattn.cli.application import DONE, LEFT_OUT, TRAIN, app
from longattn.cli.saying import complain, say, say_json, say_table, steps
from longattn.evals.settings import Answering, Evaluating
from longattn.settings import Model

if TYPE_CHECKING:
    from longattn.evals.running import Evaluation

evaluate = App(
    name="eval",
    group=TRAIN,
    help="""Evaluate a checkpoint on long contexts: made-up tasks, held-out text, and data sets through lm-eval.

    longattn eval tasks --model.name CHECKPOINT --essays ESSAYS/ --lengths 4096 --lengths 32768 --output EVAL

A task's score by itself means little: each comes with its interval, and means only of tasks that all ran.
Needs `pip install 'longattn[eval]'`.
""",
)
app.command(evaluate)

Asked = Annotated[Evaluating, Parameter(name="*", group="Tasks")]
Output = Annotated[Path, Parameter(name=("--output", "-o"))]


@evaluate.command
def tasks(
    *,
    output: Output = Path("longattn-eval"),
    model: Annotated[Model, Parameter(group="Model")] = Model(),
    rule: Asked = Evaluating(),
    answering: Annotated[Answering, Parameter(name="*", group="Answers")] = Answering(),
    json: bool = False,
) -> int:
    """Ask a checkpoint made-up questions about long prompts: RULER's 13 tasks and others, at any length.

    Each task and length is a file of its own in the output folder, with all answers; the same command goes on after a
    stop, and other lengths or models may go into the same folder. Tasks whose files are not named are left out, which
    ends with exit code 3.

    Parameters
    ----------
    output
        Folder for the results.
    json
        Print what evaluation.json holds instead of tables.
    """
    from longattn.evals.registry import named
    from longattn.evals.running import evaluate as run

    total = sum(rule.lengths) * len(named(rule.tasks)) * rule.samples
    with steps("asking", total) as advance:
        found = run(output, model, rule, answering, advance)
    if json:
        say_json(found)
    else:
        _say_evaluation(found)
        say(f"all figures       {output / 'evaluation.json'}")
    return LEFT_OUT if found.left_out else DONE


def _say_evaluation(found: "Evaluation") -> None:
    for model in dict.fromkeys((one["model"]["name"], one["model"]["hash"]) for one in found.results):
        mine = [one for one in found.results if (one["model"]["name"], one["model"]["hash"]) == model]
        rows = [
            [
                one["task"],
                f"{one['length']:,}",
                *_figure(one["score"]),
                f"{one['mean_length']:,.0f}",
                _remarks(one),
            ]
            for one in mine
        ]
        means = [mean for mean in found.means if (mean["model"]["name"], mean["model"]["hash"]) == model]
        rows += [
            [f"mean of {mean['group']} ({mean['tasks']})", f"{mean['length']:,}", *_figure(mean["score"]), "", ""]
            for mean in means
        ]
        columns = ["task", "length", "score", "95 %", "n", "mean tokens", "not as in RULER"]
        say_table(f"{model[0]} ({model[1]}), scores of 100", columns, rows)
    for one in found.left_out:
        complain(f"left out: {one.task} at {one.length}: {one.reason}")


def _figure(score: dict[str, float]) -> list[str]:
    low, high = 100 * score["low"], 100 * score["high"]
    return [f"{100 * score['value']:.1f}", f"{low:.1f} to {high:.1f}", f"{score['n']:.0f}"]


def _remarks(result: Mapping[str, Any]) -> str:
    """What keeps a score from being compared with a published one."""
    remarks = []
    if result["construction"] != "RULER":
        return f"{result['construction']}"
    if not result["wording"].startswith("RULER "):
        remarks.append("wording")
    if result["haystack"] and result["haystack"]["kind"] != "essays":
        remarks.append(f"haystack: {result['haystack']['name']}")
    if result["questions"] and result["questions"]["name"].startswith("made up"):
        remarks.append("made-up questions")
    remarks += [f"{name}: {value}" for name, value in result["reduced"].items()]
    return ", ".join(remarks)


@evaluate.command(name="list")
def list_tasks() -> int:
    """Show the made-up tasks by name, and the names that stand for several of them."""
    from longattn.evals.registry import GROUPS, TASKS

    rows = [[task.name, task.source, task.metric, str(task.max_new_tokens)] for task in TASKS.values()]
    say_table("tasks", ["task", "after", "metric", "tokens for an answer"], rows)
    for name, members in GROUPS.items():
        say(f"{name}: {', '.join(members)}")
    return DONE
