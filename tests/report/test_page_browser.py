"""Pages as a browser shows them: nothing in them is blocked, logged or cut off."""

import pytest

from longattn.report import render


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_report_is_shown_without_complaint_and_can_be_read_by_all(
    make_data, open_page, accessibility_findings, tmp_path, scheme
):
    (tmp_path / "report.html").write_text(render(make_data("<script>alert(1)</script>")), encoding="utf-8")
    page = open_page(tmp_path / "report.html", color_scheme=scheme)
    # a style that the policy blocked would leave the body's ground transparent
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgba(0, 0, 0, 0)"
    assert accessibility_findings(page) == []


def test_a_report_fits_a_phone(make_data, open_page, tmp_path):
    (tmp_path / "report.html").write_text(render(make_data("unbroken" * 500)), encoding="utf-8")
    page = open_page(tmp_path / "report.html", 390)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
