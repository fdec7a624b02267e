"""The inspect page as a person uses it: pointing, tapping, keys, screen readers, a phone, no script, paper."""

import pytest

from longattn.report.inspect_page import write_inspection

CODE = "class ParserError(Exception):\n    pass\n\n\ndef parse(text):\n    raise ParserError(text)\n"
FILLER = "the quick brown fox jumps over the lazy dog, again and again, all day long;\n" * 8


@pytest.fixture(scope="module")
def page_file(look_at, tmp_path_factory):
    """A page of a text with a definition and its use."""
    return write_inspection(tmp_path_factory.mktemp("inspect") / "page.html", look_at(CODE + FILLER + CODE, 700))


@pytest.fixture(scope="module")
def hostile_file(look_at, tmp_path_factory):
    """A page of everything that breaks pages: markup, direction marks, 1 MB without a space after the window."""
    text = "<script>document.title = 'owned'</script>\u202eabc\u200b\x00" * 6 + "unbroken" * 131072
    return write_inspection(tmp_path_factory.mktemp("inspect") / "hostile.html", look_at(text, 2048))


def overflow(page) -> int:
    """Pixels that the page is wider than its window, and everything in it that has no scroll bar of its own."""
    return page.evaluate("document.documentElement.scrollWidth - innerWidth")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_and_can_be_read_by_all(open_page, accessibility_findings, page_file, width, scheme):
    page = open_page(page_file, width, color_scheme=scheme)
    assert overflow(page) == 0
    assert accessibility_findings(page, "moderate") == []
    page.locator("#words i").nth(650).hover()
    assert accessibility_findings(page, "moderate") == []


def test_it_begins_with_the_strongest_dependency(open_page, page_file):
    page = open_page(page_file)
    assert page.locator("#token").is_visible()
    assert page.locator(".words .here").count() == 1
    assert page.locator(".along .arcs.active path").count() > 0
    assert page.evaluate("scrollY") == 0


def test_pointing_at_a_token_shows_what_it_looks_at(open_page, page_file):
    page = open_page(page_file)
    page.locator("#words i").nth(640).hover()
    assert page.locator("#token-place").inner_text() == "token 640"
    looked = page.locator(".words .looked").count()
    assert 0 < looked <= 5
    assert page.locator("#token-said ol.earlier button").count() == looked
    assert page.locator(".along .arcs.active:not(.later) path").count() == looked
    assert "of its attention is far" in page.locator("#token-said").inner_text()


def test_a_click_keeps_it_and_escape_lets_go(open_page, page_file):
    page = open_page(page_file)
    page.locator("#words i").nth(640).click()
    page.locator("#words i").nth(645).hover()
    assert page.locator("#token-place").inner_text() == "token 640"
    page.keyboard.press("Escape")
    assert page.locator(".words .here").count() == 0
    assert page.locator("#token").is_hidden()


def test_a_tap_shows_it_on_a_phone(open_page, page_file):
    page = open_page(page_file, 390, height=844, has_touch=True)
    page.locator("#words i").nth(640).tap()
    assert page.locator("#token-place").inner_text() == "token 640"
    assert page.locator(".words .looked").count() > 0


def test_keys_move_through_the_text_and_say_what_is_seen(open_page, page_file):
    page = open_page(page_file)
    page.locator("#words").focus()
    page.keyboard.press("End")
    focused = page.locator(":focus")
    place = int(page.locator("#token-place").inner_text().removeprefix("token "))
    assert place > 690
    page.keyboard.press("ArrowLeft")
    assert int(page.locator("#token-place").inner_text().removeprefix("token ")) < place
    before = focused.bounding_box()
    page.keyboard.press("ArrowUp")
    after = focused.bounding_box()
    assert abs(before["y"] - after["y"]) > 5 or page.evaluate("document.getElementById('words').scrollTop") > 0
    assert focused.get_attribute("role") == "button"
    assert focused.get_attribute("aria-describedby") == "token-said"
    assert page.locator("#words [tabindex='0']").count() == 1
    page.keyboard.press("Tab")
    assert page.locator(":focus").evaluate("of => of.closest('aside') !== null")


def test_a_listed_key_leads_to_its_place(open_page, page_file):
    page = open_page(page_file)
    page.locator(".dependencies .quote").nth(1).click()
    target = page.locator(".dependencies .quote").nth(1).get_attribute("href")
    assert page.locator(".words .here").get_attribute("id") == target.removeprefix("#")
    assert page.locator(".words .later").count() > 0
    page.locator("#token-said ol.later button").first.click()
    here, box = page.locator(".words .here").bounding_box(), page.locator("#words").bounding_box()
    assert box["y"] <= here["y"] <= box["y"] + box["height"]


def test_shades_can_be_chosen(open_page, page_file):
    page = open_page(page_file)

    def grounds():
        script = "[...document.querySelectorAll('#words i')].map(of => getComputedStyle(of).backgroundColor)"
        return page.evaluate(script)

    seen = [grounds()]
    for choice in ("by-beyond", "by-received"):
        page.locator(f"#{choice}").check()
        seen.append(grounds())
    assert all(len(set(of)) > 3 for of in seen)
    assert seen[0] != seen[1] != seen[2]


def test_the_ribbon_and_the_map_answer(open_page, page_file):
    page = open_page(page_file)
    page.locator(".along svg").click(position={"x": 600, "y": 70})
    place = int(page.locator("#token-place").inner_text().removeprefix("token "))
    assert place == pytest.approx(700 * 600 / page.locator(".along svg").bounding_box()["width"], abs=2)
    page.locator(".square figcaption").scroll_into_view_if_needed()
    area = page.locator(".square svg .map").bounding_box()
    page.mouse.move(area["x"] + 10, area["y"] + area["height"] - 10)
    assert "× the average" in page.locator("#cell").inner_text()


def test_hostile_text_does_nothing_and_fits(open_page, accessibility_findings, hostile_file):
    page = open_page(hostile_file, 390)
    assert page.title().endswith("looked at closely")
    assert "<script>document.title" in page.locator("#words").inner_text()
    assert "⟨U+202E⟩" in page.locator("#words").inner_text()
    assert overflow(page) == 0
    assert accessibility_findings(page) == []


def test_it_can_be_read_without_a_script(open_page, page_file):
    page = open_page(page_file, java_script_enabled=False)
    assert "raise ParserError(text)" in page.locator("#words").inner_text()
    assert page.locator("svg").count() == 4
    assert page.locator(".dependencies li").count() > 0
    assert page.locator("#hint").is_hidden()
    page.locator(".dependencies .quote").first.click()
    assert page.url.split("#")[1].startswith("t")


def test_paper_gets_all_of_the_text(open_page, page_file):
    page = open_page(page_file)
    page.emulate_media(media="print")
    box = page.locator("#words").evaluate("of => [of.scrollHeight, of.clientHeight]")
    assert box[0] == box[1]
    assert page.locator("#token").is_hidden()
    assert page.locator(".dependencies li").first.is_visible()
