"""The report's page in a real browser: it opens from disk without a network, answers on its first
screen, filters, sorts, follows a shared link, and takes hostile names for text."""

import copy
import shutil

import pytest

from patchparity import BenchOptions, benchmark, render_report
from patchparity.bench.report.content import build_content
from patchparity.bench.report.page import to_html

from .records import typed

playwright = pytest.importorskip("playwright.sync_api")
pytest.importorskip("jinja2")
pytest.importorskip("pytest_benchmark")

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium is installed: apt-get install chromium"
)

HOSTILE = "<img src=x onerror=document.title='pwned'>"
SIZES = ((1440, 900), (390, 900))


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    options = BenchOptions(
        cases=("vit-ti32-224-b1", "vit-ti32-224-b2"),
        backends=("numpy",),
        threads=(1,),
        rounds=8,
        out=str(folder),
    )
    return benchmark(options).content, folder


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as tools:
        started = tools.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(params=SIZES, ids=["screen", "phone"])
def page(request, browser):
    """A tab without a network, whose errors fail the test."""
    width, height = request.param
    context = browser.new_context(viewport={"width": width, "height": height}, offline=True)
    tab = context.new_page()
    said = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    yield tab
    assert said == []
    context.close()


@pytest.fixture(scope="module")
def report(record):
    _, folder = record
    return next(path for path in render_report(folder) if path.suffix == ".html")


def rows_shown(tab, fold):
    return tab.locator(f"#{fold} tbody tr:visible")


def test_the_first_screen_answers(page, report):
    page.goto(report.as_uri())
    for words in ("#verdict", "#answer", "#picture svg:visible"):
        place = page.locator(words).first.bounding_box()
        assert place["y"] < 900, words
    assert "gave right tokens" in page.locator("#verdict").inner_text()
    assert page.locator("#verdict.wrong").count() == 0
    assert "numpy:" in page.locator("#answer").inner_text()
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= page.viewport_size["width"], "nothing scrolls sideways"


def test_filters_and_a_shared_link(page, report):
    page.goto(report.as_uri())
    page.get_by_role("button", name="vit-ti32-224-b2").click()
    assert page.url.endswith("#case=vit-ti32-224-b2")
    assert page.locator("#answer").inner_text().startswith("vit-ti32-224-b2")
    assert page.locator("#answers > li:visible").count() == 1
    page.goto("about:blank")
    page.goto(f"{report.as_uri()}#case=vit-ti32-224-b2&threads=1")
    assert page.locator("#answer").inner_text().startswith("vit-ti32-224-b2")
    page.locator("#who-is-fastest > summary").click()
    page.wait_for_selector("#who-is-fastest tbody tr >> visible=true")
    shown = rows_shown(page, "who-is-fastest")
    assert {shown.nth(row).inner_text().split()[0] for row in range(shown.count())} == {
        "vit-ti32-224-b2"
    }
    before = shown.count()
    page.get_by_role("button", name="vit-ti32-224-b2").click()
    assert rows_shown(page, "who-is-fastest").count() == 2 * before


def test_a_table_is_laid_out_when_it_is_opened_and_sorts(page, report):
    fold = "vit-ti32-224-b1-float32-1-thread"
    page.goto(f"{report.as_uri()}#{fold}")
    page.wait_for_selector(f"#{fold} tbody tr")
    table = page.locator(f"#{fold} table")
    assert table.locator("caption").count() == 1
    assert table.locator("thead th").first.get_attribute("scope") == "col"
    assert table.locator("tbody th").first.get_attribute("scope") == "row"
    header = table.get_by_role("button", name="median ms")
    header.click()
    cells = table.locator("tbody tr td:nth-child(3)")
    column = [float(text) for text in cells.all_inner_texts() if text]
    assert column == sorted(column)
    header.click()
    column = [float(text) for text in cells.all_inner_texts() if text]
    assert column == sorted(column, reverse=True)
    table.get_by_role("button", name="command that measures").first.click()
    assert (
        table.locator("code")
        .first.inner_text()
        .startswith("patchparity bench --case vit-ti32-224-b1 --implementation ")
    )


def test_pictures_and_the_other_theme(page, report):
    page.goto(f"{report.as_uri()}#samples-in-order")
    page.wait_for_selector("#samples-in-order svg >> visible=true")
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.locator("#theme").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before


def test_names_are_text_and_an_empty_record_says_so(page, record, tmp_path):
    content, _ = record
    hostile = copy.deepcopy(content)
    for entry in hostile["benchmarks"]:
        entry["extra_info"]["dtype"] = "float32"
    for outcome in hostile["failures"] + hostile["skipped"]:
        outcome["message"] = HOSTILE
    hostile["environment"]["processor"] = HOSTILE
    bench = typed(hostile)
    written = tmp_path / "hostile.html"
    written.write_text(to_html(build_content(bench, None)), encoding="utf-8")
    page.goto(written.as_uri())
    for fold in page.locator("details").all():
        fold.locator("summary").click()
    opened = "document.querySelectorAll('details[data-table] table').length"
    page.wait_for_function(f"{opened} === document.querySelectorAll('[data-table]').length")
    assert page.title() == "patchparity report"
    assert HOSTILE in page.locator("dl").inner_text()
    wrong = copy.deepcopy(content)
    wrong["benchmarks"][0]["extra_info"]["verdict"] = "fail"
    written.write_text(to_html(build_content(typed(wrong), None)), encoding="utf-8")
    page.goto(written.as_uri())
    assert (
        wrong["benchmarks"][0]["extra_info"]["implementation"]
        in page.locator("#verdict.wrong").inner_text()
    )
    empty = {**content, "benchmarks": [], "failures": [], "skipped": [], "planned": 0}
    written.write_text(to_html(build_content(typed(empty), None)), encoding="utf-8")
    page.goto(written.as_uri())
    assert "Nothing was timed." in page.inner_text("main")
