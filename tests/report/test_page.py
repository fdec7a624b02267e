import itertools
import json
import random
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from longattn.records import Reject
from longattn.report import ReportData, excerpt, render, write_report
from longattn.report.sections import Run
from longattn.tables import RunFolder


class Structure(HTMLParser):
    """Everything of a page that a browser acts on: elements with their attributes, comments, declarations."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, *attrs))

    def handle_endtag(self, tag):
        self.elements.append(f"/{tag}")

    def handle_comment(self, data):
        self.elements.append(f"comment {data}")

    def handle_decl(self, decl):
        self.elements.append(f"declaration {decl}")

    def unknown_decl(self, data):
        self.elements.append(f"declaration {data}")

    def handle_pi(self, data):
        self.elements.append(f"instruction {data}")

    def handle_data(self, data):
        self.text += data


def attacks(count: int) -> list[str]:
    """Ways out of text, attributes, styles and comments, combined at random but the same each time."""
    ways_out = [
        '">',
        "'>",
        "`>",
        "</pre>",
        "</style>",
        "</title>",
        "-->",
        "]]>",
        "</svg>",
        "\u2028",
        "\x00",
        "}}",
        "<",
    ]
    payloads = [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "<svg/onload=alert(1)>",
        "<!--",
        "<![CDATA[",
        "<?xml ?>",
        "<iframe srcdoc='<script>alert(1)</script>'>",
        " onmouseover=alert(1) x=",
        "<a href=javascript:alert(1)>",
        "<base href=//evil.example>",
        "<meta http-equiv=refresh content=0>",
        "<style>@import '//evil.example'</style>",
        "{{ 7 * 7 }}{% raw %}",
        "&lt;script&gt;&#60;script&#62;",
        "<scr\x00ipt>",
        "<details open ontoggle=alert(1)>",
        "\x1b]0;title\x07",
        "<plaintext>",
    ]
    pairs = [way + payload for way, payload in itertools.product(ways_out, payloads)]
    return random.Random(20250226).sample(pairs, count)


def hostile(make_data, word: str) -> ReportData:
    """Data with the word in every text, id, file name, and as the name of the source."""

    def renamed(examples):
        return tuple(replace(e, window_id=word, doc_id=word) for e in examples)

    data = make_data(word, (word,))
    return replace(
        data,
        best={word: renamed(data.best[word])},
        borderline={word: renamed(data.borderline[word])},
        worst={word: renamed(data.worst[word])},
        windows=[(kind, replace(e, window_id=word, doc_id=word)) for kind, e in data.windows],
        rejects=(Reject(word, 7, 1, "bad_json", word),),
    )


def test_two_hundred_attacks_change_no_element_and_no_attribute(make_data):
    harmless = Structure(render(hostile(make_data, "word"))).elements
    assert len(harmless) > 200
    found = attacks(200)
    for i in range(0, 200, 20):
        attack = " ".join(found[i : i + 20])
        page = render(hostile(make_data, attack))
        assert Structure(page).elements == harmless, attack


def test_attacks_are_there_to_be_read(make_data):
    word = "<img src=x onerror=alert(1)>"
    structure = Structure(render(hostile(make_data, word)))
    assert structure.text.count(word) > 15


def test_the_page_may_load_nothing(make_data):
    page = render(make_data())
    elements = [element for element in Structure(page).elements if isinstance(element, tuple)]
    (policy,) = [dict(e[1:])["content"] for e in elements if ("http-equiv", "Content-Security-Policy") in e]
    allowed = r"default-src 'none'; style-src 'sha256-[^ ]+'; script-src 'sha256-[^ ]+'; img-src data:; base-uri 'none'"
    assert re.match(allowed, policy)
    # the one script is our own, and its hash is in the policy
    assert [e for e in elements if e[0] == "script"] == [("script",)]
    assert not {"link", "img", "iframe", "object", "base", "form"} & {e[0] for e in elements}
    addresses = [value for e in elements for name, value in e[1:] if name in ("href", "src", "action", "style")]
    assert all(address.startswith("#") for address in addresses)
    assert not re.search(r"https?://|url\(|@import", page)


def test_links_within_the_page_lead_somewhere(make_data):
    elements = [element for element in Structure(render(make_data())).elements if isinstance(element, tuple)]
    ids = {value for element in elements for name, value in element[1:] if name == "id"}
    links = {value.removeprefix("#") for element in elements for name, value in element[1:] if name == "href"}
    assert links <= ids
    assert len(links) == 11


def test_every_element_is_closed(make_data):
    open_elements = []
    for element in Structure(render(make_data())).elements:
        if isinstance(element, tuple) and element[0] != "meta":
            open_elements.append(element[0])
        elif isinstance(element, str) and element.startswith("/"):
            assert open_elements.pop() == element[1:]
    assert open_elements == []


def test_equal_data_give_equal_bytes(make_data, tmp_path):
    run = RunFolder(tmp_path)
    path = write_report(run, make_data())
    first = path.read_bytes()
    assert write_report(run, make_data()).read_bytes() == first
    assert path == tmp_path / "report.html"
    assert len(first) < 100_000


def test_the_manifest_may_come_from_its_file(make_data):
    data = make_data()
    assert render(replace(data, manifest=json.loads(json.dumps(data.manifest)))) == render(data)


def test_the_null_is_explained_with_its_value_and_the_distance_from_it(make_data):
    text = Structure(render(make_data())).text
    assert "0.4035" in text
    assert "k = 1,024 tokens" in " ".join(text.split())
    assert "a token's id and position alone" in " ".join(text.split())
    # the mean DS of 0.43 is 0.0265 above uniform attention, 2.65 of the deviations of 0.01
    assert "+0.0265" in text
    assert "+2.6" in text


def test_the_distance_of_a_preset_is_its_own(make_data):
    """It stands in no setting: the table of what was measured has it."""
    manifest = make_data().manifest
    assert Run(manifest).distance == 1024
    recipe = {**manifest["recipe"], "settings": {"longattn": {"preset": "far.json", "distance": None}}}
    for distances, expected in ([256], 256), ([256, 512], None):
        measured = {"folder": "x", "settings": {"measurement": {"layers": [21], "distances": distances}}}
        found = {**manifest, "recipe": recipe, "tables": {"longattn": measured}}
        assert Run(found).distance == Run(found, {"distance": "1/4"}).distance == expected
        # one of retrieval heads says nothing of a distance, and then the settings hold
        assert Run(found, {"heads": []}).distance == 1024


def test_other_layers_get_another_explanation(make_data):
    data = make_data()
    data.manifest["tables"]["longattn"]["settings"]["measurement"]["layers"] = [15, 21]
    text = " ".join(Structure(render(data)).text.split())
    assert "looked at layers 15, 21" in text
    assert "position alone" not in text


def test_the_ledger_balances_or_says_that_it_does_not(make_data):
    data = make_data()
    text = " ".join(Structure(render(data)).text.split())
    assert "12 records read = 9 cut into windows + 2 too short for a window + 1 rejected: bad json balances" in text
    assert "81 windows for longattn = 80 measured + 1 not a finite number balances" in text
    data.manifest["ledger"]["documents"] = 13
    text = " ".join(Structure(render(data)).text.split())
    assert "does not balance: 13 records read, 12 accounted for" in text


def test_windows_that_could_not_be_measured_are_part_of_the_balance(make_data):
    data = make_data()
    data.manifest["ledger"] |= {"scored.longattn": 77, "failed.longattn": 3}
    text = " ".join(Structure(render(data)).text.split())
    assert "81 windows for longattn = 77 measured + 1 not a finite number + 3 could not be measured balances" in text


def test_notes_come_before_everything_else(make_data):
    page = render(make_data("REMARK"))
    assert page.index("<li>REMARK</li>") < page.index("What was kept</h2>")


def test_a_run_without_attention_scores_is_shown_too(make_data):
    data = make_data()
    of = data.manifest["selection"]["sources"]["code"]
    of["quantities"] = {"score": of["quantities"]["score"]}
    plain = replace(data, null={}, best={}, worst={}, rejects=(), command="")
    text = Structure(render(plain)).text
    assert "nothing to hold the score against" in text


@pytest.mark.parametrize("manifest", [{}, {"selection": {"sources": {}, "notes": ["there is no window"]}}])
def test_an_empty_run_makes_a_page(manifest):
    assert "0 of 0 windows kept" in render(ReportData(manifest=manifest))


def test_a_source_without_any_score_makes_a_page(make_data):
    data = make_data()
    of = data.manifest["selection"]["sources"]["code"]
    of |= {"scored": 0, "scored_tokens": 0, "kept": 0, "kept_tokens": 0, "cut_score": None, "quantities": {}}
    assert "40 of" not in render(replace(data, best={}, worst={}))


def test_nothing_kept_makes_a_page(make_data):
    data = make_data()
    of = data.manifest["selection"]["sources"]["code"]
    for quantity in of["quantities"].values():
        quantity["kept"] = None
    of |= {"kept": 0, "kept_tokens": 0, "cut_score": None}
    assert "0 of 81 windows kept" in render(data)


def test_many_sources_are_all_in_the_table_and_the_largest_in_charts(make_data):
    names = tuple(f"source {i:03d}" for i in range(100))
    data = make_data(sources=names)
    data.manifest["selection"]["sources"]["source 042"]["tokens"] = 10**9
    page = render(data)
    tables = page.split("<table")[1:]
    assert all('<th scope="row">source 099</th>' in table for table in tables[:4])
    assert page.count("<h3>source 042</h3>") == page.count("<h4>source 042</h4>") == 1
    assert page.count("<h3>source 099</h3>") == page.count("<h4>source 099</h4>") == 0
    assert "76 smaller sources" in page
    assert len(page.encode()) < 1_000_000


def test_long_texts_are_cut_in_the_middle_and_say_so(make_data):
    cut = excerpt("a" * 10**6)
    assert (len(cut.head), len(cut.tail), cut.left_out) == (700, 400, 10**6 - 1100)
    assert excerpt("short").left_out == 0
    data = replace(make_data(), best={"code": (replace(make_data().best["code"][0], excerpt=cut),)})
    assert "998,900 characters left out" in render(data)


def test_control_characters_are_seen_and_do_nothing(make_data):
    page = render(make_data("\x1b[31m\u202eabc\x00\u2028\ud800"))
    assert "␛[31m⟨U+202E⟩abc␀⟨U+2028⟩⟨U+D800⟩" in page
    assert not set(page) & {"\x1b", "\u202e", "\x00", "\u2028", "\ud800"}
