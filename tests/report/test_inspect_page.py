import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib.util import find_spec
from xml.etree import ElementTree

import numpy as np
import pytest

from longattn.report.figures import standalone, write_figures
from longattn.report.inspect_charts import figures, shade
from longattn.report.inspect_page import page_path, render_inspection, write_inspection

CODE = "class ParserError(Exception):\n    pass\n\n\ndef parse(text):\n    raise ParserError(text)\n"
HOSTILE = (
    "</pre></script><script>alert(1)</script><img src=x onerror=alert(1)>",
    "\u202eright to left\u202c \u200b\u2066 zero width \u2028\u0000\x1b[31m",
    "{{ 7 * 7 }}<!-- --><style>*{display:none}</style>&lt;b&gt;",
)


class Page(HTMLParser):
    """Elements, attributes and text, as a browser reads them."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words, self.depth = "", 0
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.depth += tag == "pre" and not self.words

    def handle_endtag(self, tag):
        self.depth -= tag == "pre" and self.depth > 0

    def handle_data(self, data):
        self.words += data if self.depth else ""


def test_the_text_is_there_token_by_token(look_at):
    found = look_at(CODE * 4)
    page = Page(render_inspection(found))
    assert page.words == (CODE * 4)[:256]
    shaded = [of for name, of in page.elements if name == "i" and re.search("[aoug]", of.get("class") or "")]
    assert len(shaded) > 100
    assert sum(name == "i" for name, _ in page.elements) > 256


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_text(look_at, text):
    page = Page(render_inspection(look_at(text * 8), text))
    names = [name for name, _ in page.elements]
    assert names.count("script") == 2
    assert names.count("style") == 1
    assert "img" not in names
    assert not any(attribute.startswith("on") for _, of in page.elements for attribute in of)
    if "\u202e" in text:
        assert "⟨U+202E⟩right to left⟨U+202C⟩" in page.words
        assert "␀␛[31m" in page.words
    else:
        assert text in page.words


def test_the_page_may_load_nothing_and_runs_its_own_script_only(look_at):
    page = render_inspection(look_at(CODE * 4))
    assert re.search(r"default-src 'none'; style-src 'sha256-[^ ]+'; script-src 'sha256-[^ ]+'; img-src", page)
    assert not re.search(r"url\(|@import|<link|<img|src=", page)
    # a namespace is a name, no address that is asked for
    assert set(re.findall(r"https?://[^\"' ]+", page)) <= {"http://www.w3.org/2000/svg"}
    assert not any("style" in of for _, of in Page(page).elements)


def test_links_lead_to_tokens(look_at):
    page = Page(render_inspection(look_at(CODE * 4)))
    ids = [of["id"] for _, of in page.elements if "id" in of]
    links = {of["href"].removeprefix("#") for name, of in page.elements if name == "a"}
    assert len(links) > 10
    assert links <= set(ids)
    assert len(ids) == len(set(ids))


def test_the_numbers_are_said_beside_their_null(look_at):
    found = look_at(CODE * 4, distance=64)
    page = " ".join(render_inspection(found, "longattn inspect text.py 1").split())
    assert f"{100 * found.readings['ds']:.1f} %</b> of this window’s attention reaches 64 tokens back" in page
    assert f"spread evenly: {100 * found.null['ds']:.1f} %" in page
    assert "made of a token’s id and position alone" in page
    assert "longattn inspect text.py 1" in page
    assert "blanks, punctuation, and attention sinks" in page


def test_other_layers_and_chosen_heads_are_named(look_at):
    found = look_at(CODE * 4, layers=(1,), per_head=True, heads=((1, 2), (1, 0)), skip_first=3)
    page = " ".join(render_inspection(found).split())
    assert "heads 1.0, 1.2 (layer.head)" in page
    assert "first 3 keys not counted" in page
    assert "position alone" not in page
    assert "other heads of these layers" in page


def test_equal_inspections_give_equal_bytes(look_at, tmp_path):
    first, second = (write_inspection(tmp_path / name, look_at(CODE * 4)) for name in ("a.html", "b.html"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("text", ["eight by", "a" * 300, "\n" * 300, "漢字かな" * 60])
def test_odd_texts_make_a_page(look_at, text):
    found = look_at(text)
    page = Page(render_inspection(found))
    assert page.words == "".join(found.pieces)
    for figure in figures(found).values():
        assert "nan" not in figure


def test_names_of_pages_are_safe_and_their_own(tmp_path):
    names = {page_path(tmp_path, id).name for id in ("../../etc/passwd@0", "a/b@0", "a-b@0", "漢" * 300 + "@0", "")}
    assert len(names) == 5
    assert all(re.fullmatch(r"[A-Za-z0-9._-]{1,80}\.html", name) and not name.startswith(".") for name in names)


def test_the_map_has_a_shade_for_every_far_cell(look_at):
    found = look_at(CODE * 4, distance=64)
    cells = list(ElementTree.fromstring(figures(found)["map"]).iter("rect"))
    side = 400 / len(found.pieces)
    area = sum(float(e.get("width", 0)) * float(e.get("height", 0)) for e in cells)
    blocks = (found.pooled_null > 0).sum() * (found.edges[1] - found.edges[0]) ** 2
    assert area == pytest.approx(blocks * side**2, rel=0.01)
    assert {e.get("class") for e in cells} <= {shade(h) for h in range(-4, 9)}


def test_bars_by_distance_are_the_shares(look_at):
    found = look_at(CODE * 4, distance=64)
    bars = list(ElementTree.fromstring(figures(found)["distance"]).iter("rect"))
    heights = [float(e.get("height", 0)) for e in bars]
    assert [h / sum(heights) for h in heights] == pytest.approx(found.by_reach.tolist(), abs=0.001)
    far = [e.get("class") == "kept" for e in bars]
    assert far == [d >= 64 for d in found.reach[:-1]]


def test_many_heads_are_a_grid(look_at):
    found = look_at(CODE * 4)
    heads = tuple((layer, head) for layer in range(8) for head in range(9))
    many = replace(found, heads=heads, chosen=(True,) * 72, head_ds=np.linspace(0, 1, 72))
    cells = list(ElementTree.fromstring(figures(many)["heads"]).iter("rect"))
    assert len(cells) == 72
    assert (cells[0].get("class"), cells[-1].get("class")) == ("s0", "s9")


def test_a_figure_stands_alone(look_at, tmp_path):
    found = look_at(CODE * 4)
    for name, figure in figures(found).items():
        picture = standalone(figure)
        root = ElementTree.fromstring(picture)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert float(root.get("width", 0)) > 300, name
        style = root.findtext("{http://www.w3.org/2000/svg}style") or ""
        assert "var(" not in style
        assert "#0d7a6f" in style
    folder = write_figures(tmp_path / "figures", found)
    endings = {".svg"} | ({".png"} if find_spec("resvg_py") else set())
    assert {path.suffix for path in folder.iterdir()} == endings
    assert len(list(folder.iterdir())) == 4 * len(endings)


@pytest.mark.skipif(find_spec("resvg_py") is None, reason="pip install 'longattn[figures]'")
def test_a_png_has_three_pixels_for_each_unit(look_at, tmp_path):
    folder = write_figures(tmp_path, look_at(CODE * 4))
    content = (folder / "map.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))
    assert (width, height) == (3 * 462, 3 * 476)
