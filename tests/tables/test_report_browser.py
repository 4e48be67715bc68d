"""The reports in a real browser: nothing fails, all is seen, tables sort, phones and dark work."""

import shutil

import numpy as np
import pytest

from bench import run
from bench.preparing.checking import check_cohort
from bench.preparing.data_report import write_report as write_data_report
from bench.store import Store
from tables import report
from tables.definitions import TABLES, requests
from tables.report_figures import N_CASES
from tables.runs import Selection
from tests.tables.mini_store import write_run

OVERRIDES = (("training.max_epochs", "1"),)
SEEDS = (1, 2)
SCREENS = {
    "desktop": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"},
}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"install a browser to run this test: one of {', '.join(BROWSERS)}")
    with playwright.sync_playwright() as started:
        # A sandbox needs rights that a container's root has not; the page is our own.
        opened = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def selection(cohort, tmp_path_factory):
    """DiPro's progression runs trained for an epoch, made-up runs of Table 2, no others."""
    results = tmp_path_factory.mktemp("browser") / "results"
    for seed in SEEDS:
        place = ["--cohort", str(cohort.path), "--results", str(results), "--seed", str(seed)]
        assert run.main(["--method", "dipro", "--set", "training.max_epochs=1", *place]) == 0
    selection = Selection(cohort, Store(results), "demo", SEEDS, overrides=OVERRIDES)
    for wanted in requests(TABLES["table2"], "demo", SEEDS, overrides=OVERRIDES):
        write_run(selection, wanted)
    return selection


@pytest.fixture(scope="module")
def path(selection):
    """A report of two tables."""
    written = selection.store.root / "report.html"
    report.write_report(selection, written, ["table2", "table13"], n_resamples=50)
    return written


@pytest.fixture(scope="module")
def data_path(cohort, tmp_path_factory):
    """The report of the cohort."""
    written = tmp_path_factory.mktemp("data_report") / "data.html"
    write_data_report(cohort, written, check_cohort(cohort))
    return written


@pytest.fixture
def show(browser):
    """Opens a file on a screen; what the browser complained about is in `page.complaints`."""
    contexts = []

    def opened(path, screen="desktop"):
        contexts.append(browser.new_context(offline=True, **SCREENS[screen]))
        page = contexts[-1].new_page()
        page.complaints = []
        page.on("console", lambda message: page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("requestfailed", lambda request: page.complaints.append(request.url))
        page.goto(path.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()


def luminance(colour):
    """Relative luminance of 'rgb(r, g, b)' (WCAG 2)."""
    channels = np.array([float(part) for part in colour[4:-1].split(",")]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrasts(page):
    """Contrast of each kind of text with the page behind it."""
    return page.evaluate(
        """() => ["body", "h1", "td", "th", "small", ".soft", "summary", "nav a", "code"]
        .filter(kind => document.querySelector(kind))
        .map(kind => [getComputedStyle(document.querySelector(kind)).color,
                      getComputedStyle(document.body).backgroundColor])"""
    )


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("which", ["path", "data_path"])
def test_all_is_seen_and_nothing_fails(which, screen, show, request):
    page = show(request.getfixturevalue(which), screen)
    assert page.complaints == []
    images = page.locator("img")
    assert images.count() > 5
    widths = images.evaluate_all("all => all.map(i => [i.naturalWidth, i.clientWidth])")
    assert min(min(pair) for pair in widths) > 20
    unfolded = page.locator("table:not(details table)")
    assert unfolded.count() > 5
    assert all(table.is_visible() for table in unfolded.all())
    scrolled, wide = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert scrolled <= wide
    for ink, paper in contrasts(page):
        light, dark = sorted([luminance(ink), luminance(paper)], reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 4.5
    is_dark = SCREENS[screen]["color_scheme"] == "dark"
    assert (luminance(contrasts(page)[0][1]) < 0.05) is is_dark


def test_a_click_sorts_by_numbers_and_another_turns_it_round(path, show):
    page = show(path)
    table = page.locator("#table2 ~ .wide table.sortable").first
    column = table.locator("thead tr").last.locator("th").all_inner_texts().index("AUROC")
    button = table.locator("thead tr").last.locator("th").nth(column).locator("button")

    def values():
        cells = table.locator(f"tbody td:nth-child({column + 1})")
        return [
            float(value) for value in cells.evaluate_all("all => all.map(c => c.dataset.value)")
        ]

    before = values()
    button.click()
    assert values() == sorted(before, reverse=True) != before
    button.click()
    assert values() == sorted(before)
    table.locator("thead tr").last.locator("button").first.click()
    titles = table.locator("tbody td:first-child").all_inner_texts()
    assert titles == sorted(titles, key=str.casefold)
    assert page.complaints == []


def test_a_number_leads_to_the_commands_of_its_runs(path, show):
    page = show(path)
    page.locator("#table2 ~ .wide td[data-value] a").first.click()
    line = page.locator("tr:target")
    line.wait_for(state="visible")
    assert "--method utde --task mortality --cxr last --seed 1" in line.inner_text()


def test_cases_are_drawn_of_an_open_cohort(path, show):
    cases = show(path).locator("#cases ~ .wide img")
    assert cases.count() == N_CASES
    assert cases.first.is_visible()
