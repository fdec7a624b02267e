"""From the words of a command to its exit code: where settings come from, signals, errors in one line."""

import json
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import cyclopts
from cyclopts import App, Parameter
from cyclopts.argument import update_argument_collection

from longattn.addresses import is_uri
from longattn.cli.application import DONE, ERROR, USAGE, app
from longattn.cli.saying import complain, shown
from longattn.errors import LongAttnError
from longattn.logs import Format, Level, Style, printable, show_log
from longattn.recipes import RECIPES, Recipe
from longattn.settings import plain


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: settings from flags, variables, ``--config`` and ``--recipe``; errors as one line."""
    sys.exit(launch(sys.argv[1:] if arguments is None else list(arguments)))


def launch(arguments: list[str]) -> int:
    """Run the command line and return its exit code.

    SIGTERM, which comes before a preemption, ends it as politely as Ctrl-C; a second signal of either kind ends it at
    once.
    """

    def interrupt(number: int, frame: object) -> None:
        for one in before:
            signal.signal(one, end)
        raise _Stopped(number)

    def end(number: int, frame: object) -> None:
        # processes notice that their parent is gone, and what they had in hand begins anew
        os._exit(128 + number)

    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    for one in before:
        signal.signal(one, interrupt)
    # what an earlier command of this process had for settings is not this one's
    app.config = (_VARIABLES, _of_every_verb)
    try:
        return app.meta(arguments)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


_VARIABLES = cyclopts.config.Env("LONGATTN_", command=False)


def _reader(file: Path) -> cyclopts.config.Toml | cyclopts.config.Yaml:
    return (cyclopts.config.Toml if file.suffix == ".toml" else cyclopts.config.Yaml)(file, must_exist=True)


def _keys_of(source: cyclopts.config.Dict | cyclopts.config.Toml | cyclopts.config.Yaml) -> dict[str, Any]:
    try:
        found: Any = source.config
    except TypeError as error:
        # of YAML's errors, some have no text where cyclopts looks for it (5.4.0); the one it was about is the context
        raise cyclopts.CycloptsError(msg=f"{source.source} cannot be read: {error.__context__}") from error
    if not isinstance(found, dict):
        raise cyclopts.CycloptsError(msg=f"{source.source} must hold settings by name, not a {type(found).__name__}")
    return found


def _of_every_verb(app: App, commands: tuple[str, ...], arguments: Any) -> None:
    """Settings of the parameters of :func:`_launch` that the file of ``--config`` holds."""
    files = [Path(a.tokens[0].value) for a in arguments if a.name == "--config" and a.tokens]
    # one that is not there is told of below, in one line
    if files and files[0].exists():
        file, names = _reader(files[0]), {a.name.removeprefix("--") for a in arguments}
        found = {key: value for key, value in _keys_of(file).items() if key.replace("_", "-") in names}
        update_argument_collection(found, file.source, arguments, root_keys=(), allow_unknown=False)


@app.meta.default
def _launch(
    *arguments: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Annotated[
        Path | None, Parameter(help="TOML or YAML file with settings, by the names of the flags.")
    ] = None,
    recipe: Annotated[str, Parameter(help=f"Settings to begin from: {', '.join(RECIPES)}.")] = "laptop",
    debug: Annotated[bool, Parameter(help="Show the traceback of an error.")] = False,
    log_format: Annotated[Format, Parameter(help="Log lines as text, or each as a JSON object.")] = "text",
    log_level: Annotated[Level, Parameter(help="What is worth a log line.")] = "info",
) -> int:
    show_log(Style(log_format, log_level))
    sources: list[Any] = [_VARIABLES]
    if config is not None:
        sources.append(_Settings(_reader(config)))
    if recipe not in RECIPES:
        complain(f"recipe must be one of {', '.join(RECIPES)}, got {recipe!r}")
        return USAGE
    sources.append(_Base(recipe))
    app.config = tuple(sources)
    try:
        return app(arguments, exit_on_error=True) or DONE
    except KeyboardInterrupt as stop:
        complain("stopped; run the same command again to continue")
        return 128 + (stop.number if isinstance(stop, _Stopped) else signal.SIGINT)
    except Exception as error:
        # the last stop before a person, who gets one line; --debug shows all of it
        if debug:
            sys.stderr.write(shown(traceback.format_exc()))
        complain(_in_one_line(error))
        return ERROR


class _Stopped(KeyboardInterrupt):
    """A signal asked the process to end."""

    def __init__(self, number: int) -> None:
        self.number = number


def _in_one_line(error: Exception) -> str:
    """What went wrong, for whom a traceback says nothing."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, ModuleNotFoundError) and (extra := _extra_of(error.name)):
        return f"this needs the package {error.name}, which is not installed: pip install 'longattn[{extra}]'"
    if isinstance(error, MemoryError):
        said = f" ({text})" if text else ""
        text = f"there was not enough memory{said}: fewer workers, a smaller unit_bytes or max_doc_bytes help"
    elif not isinstance(error, (LongAttnError, ValueError, OSError)):
        text = f"{type(error).__name__}: {text} (--debug shows where)"
    return printable("; ".join([text or type(error).__name__, *getattr(error, "__notes__", [])]))


def _extra_of(module: str | None) -> str | None:
    """The extra that brings a package, if one does."""
    from longattn.doctor import EXTRAS

    package = (module or "").partition(".")[0]
    return next((extra for extra, packages in EXTRAS.items() if package in packages), None)


@dataclass(frozen=True)
class _Settings:
    """Settings by the names of flags, also those that are named as verbs are: ``refine``, ``train``."""

    read: cyclopts.config.Dict | cyclopts.config.Toml | cyclopts.config.Yaml

    def __call__(self, app: App, commands: tuple[str, ...], arguments: Any) -> None:
        # called itself, it would take a key that is also a verb's name for the settings of that verb, and pass over it
        apps = app.app_stack.stack[-1]
        keys, source = _with_dotted_names(_keys_of(self.read)), self.read.source
        update_argument_collection(keys, source, arguments, apps, root_keys=(), allow_unknown=False)


def _with_dotted_names(values: dict[str, Any]) -> dict[str, Any]:
    """The same settings where the name of a source or column holds a dot, which in a flag begins a key of its own."""
    keep = values.get("keep")
    if not isinstance(keep, dict):
        return values
    named = {name: keep[name] for name in ("weights", "quotas") if isinstance(keep.get(name), dict)}
    dotted = {name: json.dumps(of) for name, of in named.items() if any("." in key for key in of)}
    return values | {"keep": keep | dotted}


@dataclass(frozen=True)
class _Base:
    """Where settings come from when nobody gives them: the run folder a verb works on, or a recipe."""

    recipe: str

    def __call__(self, app: App, commands: tuple[str, ...], arguments: Any) -> None:
        given = {a.name: a.tokens[0].value for a in arguments if a.tokens}
        folder = given.get("--folder")
        source, recipe = f"recipe {self.recipe}", plain(RECIPES[self.recipe]())
        verb = commands[0] if commands else ""
        if verb in ("validate", "calibrate") and "--inputs" not in given and "INPUTS" not in given:
            folder = given.get("--output", "longattn-run")
        target = given.get("--target", "")
        if verb == "inspect" and (is_uri(target) or (Path(target) / "manifest.json").exists()):
            source, recipe = f"{target}/manifest.json", _recorded_recipe(target)
        if folder is not None and verb in (
            "select",
            "refine",
            "export",
            "attributes",
            "report",
            "compare",
            "validate",
            "calibrate",
        ):
            source = f"{folder}/manifest.json"
            recipe = _recorded_recipe(folder)
        if any(a.name.startswith("--window.") for a in arguments):
            values, usual = ({**of, **of["settings"]} for of in (recipe, plain(Recipe())))
            values = _given(values, usual)
            values.pop("settings", None)
            values["keep"] = _without_replaced(values["keep"], {a.name for a in arguments if a.tokens})
            _Settings(cyclopts.config.Dict(values, source=source))(app, commands, arguments)


def _without_replaced(keep: dict[str, Any], given: set[str]) -> dict[str, Any]:
    """What to keep, without what a given setting takes the place of as a whole: a budget, the weights, the quotas."""
    for together in (("share", "tokens", "count", "threshold"), ("weights",), ("quotas",)):
        if any(name.startswith(f"--keep.{one}") for name in given for one in together):
            keep = {key: value for key, value in keep.items() if key not in together}
    return keep


def _recorded_recipe(folder: str) -> dict[str, Any]:
    """The recipe that the run was last called with."""
    from longattn.tables import RunFolder

    recipe = RunFolder.at(folder).manifest().get("recipe")
    if recipe is None:
        raise FileNotFoundError(f"{folder} is no measured run: it has no manifest.json; run `longattn measure` first")
    return recipe


def _given(value: Any, usual: Any) -> Any:
    """Settings without those that are None or empty, as they are by default; ``usual`` are the default ones."""
    if not isinstance(value, dict):
        return value
    usual = usual if isinstance(usual, dict) else {}
    inner = {key: _given(item, usual.get(key)) for key, item in value.items()}
    nothing = (None, {}, [])
    return {key: item for key, item in inner.items() if item not in nothing or usual.get(key) not in nothing}
