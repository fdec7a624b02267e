"""Pages as a browser shows them: nothing is blocked, logged or cut off, and their tables obey mouse and keyboard."""

import pytest

from longattn.report import render, render_difference

HOSTILE = "<script>document.title='taken'</script>" + "\u202e" + "unbroken" * 400


PAGES = {
    "report": lambda make_data, _, word: render(make_data(word)),
    "diff": lambda _, make_difference, word: render_difference(make_difference(word)),
}


@pytest.fixture
def write_page(make_data, make_difference, tmp_path):
    def write(kind: str, word: str = "word"):
        path = tmp_path / f"{kind}.html"
        path.write_text(PAGES[kind](make_data, make_difference, word), encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize("kind", sorted(PAGES))
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_a_page_is_shown_without_complaint_and_can_be_read_by_all(
    kind, scheme, width, write_page, open_page, accessibility_findings
):
    page = open_page(write_page(kind, HOSTILE), width, color_scheme=scheme)
    # a style that the policy blocked would leave the body's ground transparent
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgba(0, 0, 0, 0)"
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.title() != "taken"
    assert "<script>document.title" in page.inner_text("main")
    assert accessibility_findings(page) == []


def column(page, table, number):
    cells = page.locator(f"{table} tbody tr:not([hidden]) > :nth-child({number})")
    return cells.all_inner_texts()


WINDOWS = "#windows table"


def test_a_table_is_sorted_by_its_headings(write_page, open_page):
    page = open_page(write_page("diff"))
    heading = page.locator(f"{WINDOWS} th", has_text="rank, first")
    ranks = column(page, WINDOWS, 6)
    assert ranks == [str(100 - i) for i in range(20)]
    # a number goes from the largest first, and the other way round the second time
    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    assert column(page, WINDOWS, 6) == ranks
    heading.get_by_role("button").press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    assert column(page, WINDOWS, 6) == ranks[::-1]
    # words begin at the start of the alphabet, and numbers in them count as numbers
    page.locator(f"{WINDOWS} thead button").first.press("Space")
    assert column(page, WINDOWS, 1) == [f"word@{i}" for i in range(20)]
    assert heading.get_attribute("aria-sort") is None


def test_missing_values_come_last_whichever_way_a_table_is_sorted(write_page, open_page):
    page = open_page(write_page("report"))
    heading = page.locator("#cost th", has_text="pairs of a query")
    for order in ("descending", "ascending"):
        heading.get_by_role("button").click()
        assert heading.get_attribute("aria-sort") == order
        assert column(page, "#cost table", 5) == ["10.0 %", "–"]


def test_a_table_is_searched_and_narrowed_by_keyboard(write_page, open_page):
    page = open_page(write_page("report"))
    shown = page.locator("#windows output")
    assert shown.inner_text() == "6 of 6 rows"
    page.get_by_label("Search").last.focus()
    page.keyboard.type("D41")
    assert shown.inner_text() == "1 of 6 rows"
    assert column(page, WINDOWS, 1) == ["d41@0"]
    page.keyboard.press("Control+A")
    page.keyboard.press("Delete")
    page.get_by_label("why here").select_option("next to the cut")
    assert shown.inner_text() == "4 of 6 rows"
    page.get_by_label("fate").select_option("kept")
    assert column(page, WINDOWS, 5) == ["39", "40"]
    # rows that are sorted stay hidden
    page.locator(f"{WINDOWS} thead button").nth(4).click()
    assert column(page, WINDOWS, 5) == ["40", "39"]


@pytest.mark.parametrize("kind", sorted(PAGES))
def test_without_its_script_a_page_has_every_row(kind, write_page, open_page):
    page = open_page(write_page(kind), java_script_enabled=False)
    assert page.locator(f"{WINDOWS} tbody tr").count() == {"report": 6, "diff": 20}[kind]
    assert page.locator(".tools, button").count() == 0


@pytest.mark.parametrize("kind", sorted(PAGES))
def test_a_page_prints_without_what_only_a_screen_can_do(kind, write_page, open_page):
    page = open_page(write_page(kind))
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    assert not page.locator(".tools").last.is_visible()
    assert page.locator(f"{WINDOWS} tbody tr").first.is_visible()


def test_every_card_leads_to_a_section(write_page, open_page):
    page = open_page(write_page("report"))
    cards = page.locator(".card a")
    assert cards.count() == 8
    for card in cards.all():
        card.press("Enter")
        assert page.locator(card.get_attribute("href")).count() == 1
