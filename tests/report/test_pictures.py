"""Pages as they look, against pictures that were looked at: at 1280 and 390 pixels, light and dark, and on paper.

Fonts differ from machine to machine, so pixels are not compared. A page is compared by its landmarks (header, cards,
sections, charts, regions of tables):

* there are as many of each kind as there were, in the same order;
* each begins as far from the left and is as wide, to ``SIDEWAYS`` of the page's width, and as high, to ``HIGHER`` of
  its height and two lines, for text that runs over differently;
* each has about the contrast that it had, the standard deviation of its luminance, to a factor of ``CONTRAST`` where it
  has more than ``LEAST`` of it;
* each has it in about the same places: pictures stretched to one size, and averaged over squares of ``SQUARE`` pixels,
  differ by at most ``DARKER`` of the way from black to white in the mean.

That these catch broken layouts, and let other fonts pass, is tested below. ``LONGATTN_PICTURES=write pytest
tests/report/test_pictures.py`` makes the pictures again: look at them before you keep them.
"""

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from longattn.report import render, render_difference
from longattn.report.inspect_page import write_inspection
from longattn.validity.page import write_validation
from longattn.validity.statistics import Estimate
from longattn.validity.validating import Cost, Reading, Separation, Validation

FOLDER = Path(__file__).with_name("pictures")
LANDMARKS = "header, .notes, .cards, .card, main > section, figure, .charts, .scroll, .words, aside, footer"
# a picture of half the size has all that is compared
VIEWS = {
    "1280": {"width": 1280, "device_scale_factor": 0.5},
    "390": {"width": 390, "device_scale_factor": 0.5, "color_scheme": "dark"},
    "paper": {"width": 720, "device_scale_factor": 0.5},
}
PAGES = ("report", "inspect", "diff", "validation")

SIDEWAYS = 0.015
HIGHER = 0.25
LINES = 48
SQUARE = 32
DARKER = 0.06
CONTRAST = 1.6
LEAST = 0.02
SHADES = 16

CODE = "class ParserError(Exception):\n    pass\n\n\ndef parse(text):\n    raise ParserError(text)\n\n\n"
FILLER = "the quick brown fox jumps over the lazy dog, again and again, all day long;\n" * 6


def validation() -> Validation:
    """What a validation of two sources by three scorers might find."""
    scorers, sources, controls = ("longattn", "far", "random"), ("books", "code"), ("spliced-8", "shuffled-128")
    near = {"longattn": 0.52, "far": 0.97, "random": 0.49}
    of = {name: Estimate(value, value - 0.03, min(1.0, value + 0.03)) for name, value in near.items()}
    return Validation(
        settings={"controls": controls, "resamples": 1000, "seed": 0, "pairs": 40, "pairs_for": {}},
        model={"name": "model", "hash": "5c3bcfcb623e6dd0", "dtype": "float32"},
        window=4096,
        scorers={name: {"scorer": name, "pairs": 40} for name in scorers},
        sources={name: {"windows": 40, "documents": 30} for name in sources},
        corpus="0123456789abcdef",
        separations=[Separation(n, s, c, 40, 30, of[n], of[n]) for n in scorers for s in sources for c in controls],
        readings=[Reading(n, s, "length", 40, of[n]) for n in scorers for s in sources],
        notes=["books: a remark"],
        versions={"longattn": "0.1.0"},
        costs={name: Cost(0.34, 12_000.0) for name in scorers},
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory, look_at):
    """A file for each page; those of the report and the diff are written when they are asked for."""
    folder = tmp_path_factory.mktemp("pages")
    write_inspection(folder / "inspect.html", look_at(CODE + FILLER + CODE, 600))
    write_validation(folder / "validation.html", validation())
    return folder


@pytest.fixture
def open_view(files, make_data, make_difference, open_page):
    def open_one(name: str, view: str):
        (files / "report.html").write_text(render(make_data("a word", ("books", "code"))), encoding="utf-8")
        (files / "diff.html").write_text(render_difference(make_difference("a word")), encoding="utf-8")
        page = open_page(files / f"{name}.html", **VIEWS[view])
        if view == "paper":
            page.emulate_media(media="print")
        return page

    return open_one


def take(page) -> tuple[Image.Image, list[list]]:
    """The whole page in grey, and every landmark as kind, left, top, width, height in pixels, the page itself first."""
    places = page.evaluate(
        """kinds => [document.documentElement, ...document.querySelectorAll(kinds)].flatMap(of => {
            const box = of.getBoundingClientRect(), kind = of.classList[0] || of.localName;
            const seen = of.checkVisibility() && box.width && box.height;
            return seen ? [[kind, box.x + scrollX, box.y + scrollY, box.width, box.height]] : [];
        })""",
        LANDMARKS,
    )
    wide = page.evaluate("document.documentElement.scrollWidth")
    data = page.screenshot(full_page=True, animations="disabled")
    picture = Image.open(io.BytesIO(data)).convert("L")
    page_and_rest = [["page", 0, 0, wide, places[0][4]], *places[1:]]
    return picture, [[kind, *map(round, box)] for kind, *box in page_and_rest]


def part(picture: Image.Image, box: list, scale: float) -> Image.Image:
    """What of a picture, ``scale`` times as large as the page, lies in a box of the page."""
    left, top, width, height = (round(scale * side) for side in box)
    return picture.crop((left, top, left + max(1, width), top + max(1, height)))


def luminance(picture: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """From 0 to 1, averaged over so many squares."""
    return np.asarray(picture.resize(size, Image.Resampling.BOX), dtype=np.float64) / 255


def contrast(picture: Image.Image) -> float:
    """The standard deviation of luminance, from 0 to 0.5."""
    return float(np.asarray(picture, dtype=np.float64).std() / 255)


def differences(reference: tuple[Image.Image, list[list]], seen: tuple[Image.Image, list[list]]) -> list[str]:
    """What is not as it was; empty where the page looks the same."""
    (before, places), (now, found) = reference, seen
    if (kinds := [kind for kind, *_ in places]) != (others := [kind for kind, *_ in found]):
        return [f"landmarks were {kinds}, are {others}"]
    problems, reach = [], SIDEWAYS * places[0][3]
    scale, new_scale = before.width / places[0][3], now.width / found[0][3]
    for (kind, *box), (_, *other) in zip(places, found, strict=True):
        (left, _, width, height), (new_left, _, new_width, new_height) = box, other
        if max(abs(new_left - left), abs(new_left + new_width - left - width)) > reach:
            problems.append(f"{kind} was {box}, is {other}")
        if abs(new_height - height) > HIGHER * height + LINES:
            problems.append(f"{kind} was {height} high, is {new_height}")
        old, new = part(before, box, scale), part(now, other, new_scale)
        size = (max(1, width // SQUARE), max(1, height // SQUARE))
        darker = np.abs(luminance(old, size) - luminance(new, size)).mean()
        if darker > DARKER:
            problems.append(f"{kind} at {box} differs in luminance by {darker:.3f}")
        # pictures of one size have lost the same to it
        of_old, of_new = contrast(old), contrast(new.resize(old.size, Image.Resampling.BOX))
        if not 1 / CONTRAST < (of_new + LEAST) / (of_old + LEAST) < CONTRAST:
            problems.append(f"{kind} at {box} had a contrast of {of_old:.3f}, has {of_new:.3f}")
    return problems


def stored(name: str, view: str) -> tuple[Image.Image, list[list]]:
    with Image.open(FOLDER / f"{name}-{view}.png") as picture:
        return picture.convert("L"), json.loads(picture.text["landmarks"])


def store(name: str, view: str, picture: Image.Image, places: list[list]) -> None:
    """A quarter of the page on each side (a half of a phone's), in shades of grey, with the landmarks inside."""
    from PIL.PngImagePlugin import PngInfo

    share = 1 if view == "390" else 2
    size = (picture.width // share, picture.height // share)
    shades = picture.resize(size, Image.Resampling.BOX).point(
        [round(value / 255 * (SHADES - 1)) for value in range(256)]
    )
    shades = Image.frombytes("P", size, shades.tobytes())
    shades.putpalette([round(shade / (SHADES - 1) * 255) for shade in range(SHADES) for _ in "rgb"])
    facts = PngInfo()
    facts.add_text("landmarks", json.dumps(places, separators=(",", ":")), zip=True)
    FOLDER.mkdir(exist_ok=True)
    shades.save(FOLDER / f"{name}-{view}.png", optimize=True, bits=4, pnginfo=facts)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_looks_as_it_did_when_it_was_looked_at(name, view, open_view):
    seen = take(open_view(name, view))
    if os.environ.get("LONGATTN_PICTURES") == "write":
        store(name, view, *seen)
    assert differences(stored(name, view), seen) == []


@pytest.mark.parametrize(("view", "font"), [("1280", "serif"), ("390", "Liberation Sans, Arial, Helvetica")])
def test_other_fonts_look_the_same(view, font, open_view):
    page = open_view("report", view)
    page.evaluate("font => { document.body.style.fontFamily = font; }", font)
    assert differences(stored("report", view), take(page)) == []


BROKEN = {
    ("no style", "390"): "document.styleSheets[0].disabled = true",
    ("cards under each other", "1280"): "document.querySelector('.cards').style.display = 'block'",
    ("a chart that is gone", "390"): "document.querySelector('figure').remove()",
    ("charts in one colour", "1280"): "document.querySelectorAll('svg *').forEach(of => of.removeAttribute('class'))",
    ("charts that are empty", "390"): "document.querySelectorAll('.charts svg').forEach(of => of.style.opacity = 0)",
    ("text that is not seen", "1280"): "document.querySelector('main').style.color = 'transparent'",
    ("a section over another", "390"): "document.querySelectorAll('main > section')[1].style.marginTop = '-25rem'",
    ("tables out of the page", "390"): "document.querySelectorAll('.scroll').forEach(of => of.style.width = '120%')",
    ("a page to the side", "1280"): "document.querySelector('main').style.marginLeft = '12%'",
    ("the other scheme", "1280"): "document.documentElement.style.setProperty('--ground', '#14171a')",
}


@pytest.mark.parametrize(("breakage", "view"), BROKEN)
def test_a_broken_layout_is_noticed(breakage, view, open_view):
    page = open_view("report", view)
    page.evaluate(f"() => {{ {BROKEN[breakage, view]}; }}")
    assert differences(stored("report", view), take(page))
