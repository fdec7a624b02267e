"""The verbs that ask what a checkpoint makes of a long context."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from longattn.cli.application import DONE, LEFT_OUT, TRAIN, AsJson, Device, Inputs, Threads, app
from longattn.cli.saying import complain, say, say_json, say_table, steps
from longattn.evals.settings import Answering, Evaluating, Measuring
from longattn.settings import Corpus, Model

if TYPE_CHECKING:
    from longattn.evals.by_position import Mean
    from longattn.evals.held_out import HeldOut
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
    as_json: AsJson = False,
) -> int:
    """Ask a checkpoint made-up questions about long prompts: RULER's 13 tasks and others, at any length.

    Each task and length is a file of its own in the output folder, with all answers; the same command goes on after a
    stop, and other lengths or models may go into the same folder. Tasks whose files are not named are left out, which
    ends with exit code 3.

    Parameters
    ----------
    output
        Folder for the results.
    as_json
        Print what evaluation.json holds instead of tables.
    """
    from longattn.evals.registry import named
    from longattn.evals.running import evaluate as run

    total = sum(rule.lengths) * len(named(rule.tasks)) * rule.samples
    with steps("asking", total) as advance:
        found = run(output, model, rule, answering, advance)
    if as_json:
        say_json(found)
    else:
        _say_evaluation(found)
        say(f"all figures       {output / 'evaluation.json'}")
    return LEFT_OUT if found.left_out else DONE


def _say_evaluation(found: "Evaluation") -> None:
    tables = dict.fromkeys((one["model"]["name"], one["model"]["hash"], one["length"]) for one in found.results)
    for name, hashed, length in tables:

        def of_this(one: Mapping[str, Any], this: tuple[Any, ...] = (name, hashed, length)) -> bool:
            return (one["model"]["name"], one["model"]["hash"], one["length"]) == this

        mine = [one for one in found.results if of_this(one)]
        rows = [[one["task"], *_figure(one["score"]), f"{one['mean_length']:,.0f}"] for one in mine]
        rows += [
            [f"mean of {mean['group']} ({mean['tasks']})", *_figure(mean["score"]), ""]
            for mean in found.means
            if of_this(mean)
        ]
        say_table(f"{name}: {length:,} tokens, scores of 100", ["task", "score", "95 %", "n", "mean tokens"], rows)
        remarks: dict[str, list[str]] = {}
        for one in mine:
            for remark in _remarks(one):
                remarks.setdefault(remark, []).append(one["task"])
        for remark, tasks_of_it in remarks.items():
            say(f"{remark}: {'all of them' if len(tasks_of_it) == len(mine) else ', '.join(tasks_of_it)}")
    for one in found.left_out:
        complain(f"left out: {one.task} at {one.length}: {one.reason}")


def _figure(score: Mapping[str, float]) -> list[str]:
    low, high = 100 * score["low"], 100 * score["high"]
    return [f"{100 * score['value']:.1f}", f"{low:.1f} to {high:.1f}", f"{score['n']:.0f}"]


def _remarks(result: Mapping[str, Any]) -> list[str]:
    """What keeps a score from being compared with a published one."""
    if result["construction"] != "RULER":
        return [f"after {result['construction']}, in our wording"]
    remarks = []
    if not result["wording"].startswith("RULER "):
        remarks.append(f"not RULER's wording ({result['wording']})")
    if result["haystack"] and result["haystack"]["kind"] != "essays":
        remarks.append(f"not RULER's essays ({result['haystack']['name']})")
    if result["questions"] and result["questions"]["name"].startswith("made up"):
        remarks.append("made-up questions")
    return remarks + [f"less than in RULER ({name}: {value})" for name, value in result["reduced"].items()]


@evaluate.command(name="list")
def list_tasks() -> int:
    """Show the made-up tasks by name, and the names that stand for several of them."""
    from longattn.evals.registry import GROUPS, TASKS

    rows = [[task.name, task.source, task.metric, str(task.max_new_tokens)] for task in TASKS.values()]
    say_table("tasks", ["task", "after", "metric", "tokens for an answer"], rows)
    for name, members in GROUPS.items():
        say(f"{name}: {', '.join(members)}")
    return DONE


@evaluate.command
def text(
    *inputs: Inputs,
    output: Output = Path("longattn-eval"),
    model: Annotated[Model, Parameter(group="Model")] = Model(),
    evaluator: str | None = None,
    corpus: Annotated[Corpus, Parameter(group="Corpus")] = Corpus(),
    rule: Annotated[Measuring, Parameter(name="*", group="Measures")] = Measuring(),
    device: Device = "auto",
    threads: Threads = None,
    as_json: AsJson = False,
) -> int:
    """Measure on held-out text what no task is needed for: loss by position, truncation gain, far repeats, LongPPL.

    Inputs are texts that the model was not trained on, or an export with token ids. A lower late loss alone shows no
    use of a long context; the truncation gain does: the loss with a short context less the loss with all of it.

    Parameters
    ----------
    output
        Folder for the result.
    evaluator
        The model that chooses LongPPL's key tokens; without it each model chooses its own, and LongPPL of two models
        must not be compared.
    as_json
        Print the whole result instead of tables.
    """
    from longattn import engines
    from longattn.evals.held_out import measure

    inputs = inputs or corpus.inputs
    if not inputs:
        raise ValueError("no input given: name files, folders or globs of held-out text, or an export")
    place = engines.device(device)
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    judge = None if evaluator is None else replace(model, name=evaluator, hash=None)
    with steps("measuring", rule.windows * (1 if judge is None else 2)) as advance:
        found = measure(output, model, replace(corpus, inputs=inputs), rule, judge, place, advance)
    if as_json:
        say_json(found)
    else:
        _say_held_out(found)
    return DONE


def _say_held_out(found: "HeldOut") -> None:
    facts = found.settings
    title = f"{facts['model']['name']}: {facts['text']['windows']} windows of {facts['text']['documents']} documents"
    rows = [[f"loss, tokens {one.start:,} to {one.stop - 1:,}", *_mean(one.loss)] for one in found.loss_by_position]
    named = {
        "late loss": found.late_loss,
        "truncation gain": found.truncation_gain,
        "far-repeat loss": found.far_repeat_loss,
        "far-repeat gain": found.far_repeat_gain,
        "LongPPL": found.long_ppl,
    }
    rows += [[name, *_mean(of)] for name, of in named.items()]
    say_table(title, ["nats per token", "mean", "95 %", "tokens"], rows)
    if facts["evaluator"]["is_the_model"]:
        say("LongPPL: the model chose its own key tokens; --evaluator makes models comparable")


def _mean(of: "Mean") -> list[str]:
    if not of.tokens:
        return ["–", "", "0"]
    between = f"{of.low:.4f} to {of.high:.4f}" if of.documents > 1 else "–"
    return [f"{of.value:.4f}", between, f"{of.tokens:,}"]


@evaluate.command(name="export")
def export_tasks(
    *,
    output: Output = Path("longattn-tasks"),
    model: Annotated[Model, Parameter(group="Model")] = Model(),
    rule: Asked = Evaluating(),
) -> int:
    """Write made-up tasks for lm-eval, so that any of its backends runs them: `lm_eval --include_path FOLDER`.

    Prompts are as long as asked for by the tokenizer of --model.name; no weights are read.

    Parameters
    ----------
    output
        Folder for JSON lines, YAML files and metrics. It can be moved.
    """
    from longattn.evals.exporting import GROUP
    from longattn.evals.exporting import export_tasks as export

    names, left_out = export(output, model, rule)
    for one in left_out:
        complain(f"left out: {one.task} at {one.length}: {one.reason}")
    if names:
        longest = max(rule.lengths)
        say(f"{len(names)} tasks -> {output}")
        say(
            f"lm_eval --include_path {output} --tasks {GROUP} --model hf --model_args pretrained=…,max_length={longest}"
        )
    return LEFT_OUT if left_out else DONE


@evaluate.command
def suite(
    *names: Annotated[str, Parameter(help="longbench, mmlu, hellaswag, openbookqa, humaneval; all if none is named.")],
    output: Output = Path("longattn-eval"),
    model: Annotated[Model, Parameter(group="Model")] = Model(),
    download: bool = False,
    limit: int | None = None,
    length: int | None = None,
    device: Device = "auto",
    run_code: bool = False,
    check: bool = False,
) -> int:
    """Run LongBench, MMLU, HellaSwag, OpenBookQA or HumanEval through lm-eval, if their data are in the cache.

    Parameters
    ----------
    output
        Folder for the results.
    download
        Fetch data sets that are not in the cache.
    limit
        Take only the first questions of each task; for a first look.
    length
        Most tokens of a prompt; longer ones lose their beginning.
    run_code
        Allow HumanEval to run what the model writes.
    check
        Only show which data are in the cache.
    """
    from longattn import engines
    from longattn.evals.suites import SUITES, cached, run_suites

    if check:
        rows = [[name, of.dataset, "yes" if cached(of) else "no"] for name, of in SUITES.items()]
        say_table("data sets", ["suite", "on the hub", "in the cache"], rows)
        return DONE
    place = engines.device(device)
    wanted = names or tuple(SUITES)
    found = run_suites(
        output, model, wanted, download=download, limit=limit, length=length, device=place, run_code=run_code
    )
    for name, result in found.items():
        rows = [
            [task, metric, f"{value:.4f}"]
            for task, values in result["results"].items()
            for metric, value in values.items()
            if isinstance(value, float)
        ]
        say_table(name, ["task", "metric", "value"], rows)
    return DONE
