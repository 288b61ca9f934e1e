"""The page in headless Chromium: no error, no request, all drawn, totals as the ledger's."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cost_models.report import Report, Row, write_report, write_whatif

CHROMIUM = Path("/usr/bin/chromium")
DRIVER = Path("/usr/bin/chromedriver")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1200,900",
)
TOTALS = ("by-team", "by-project", "by-pool", "by-job")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (CHROMIUM.exists() and DRIVER.exists()),
        reason="no Chromium: apt install chromium chromium-driver",
    ),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def opened(browser: Any, sample: Report, tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(sample, path)
    browser.get(path.as_uri())
    return browser


def test_the_console_is_silent_and_nothing_is_asked_of_a_network(opened: Any) -> None:
    assert opened.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    asked = [
        message["params"]["request"]["url"].split(":")[0]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert [scheme for scheme in asked if scheme not in ("chrome", "data")] == ["file"]


def test_every_figure_is_drawn(opened: Any) -> None:
    drawn = opened.execute_script(
        "return [...document.querySelectorAll('.plot')].map(f => [f.id,"
        " f.classList.contains('js-plotly-plot'), f.querySelectorAll('svg .trace').length])"
    )
    assert [name for name, _, _ in drawn] == [
        f"figure-{name}" for name in (*TOTALS, "gantt", "use", "idle", "compared", "measured")
    ]
    assert all(plotted and traces for _, plotted, traces in drawn)


def test_totals_on_the_page_are_the_ledgers(opened: Any, sample: Report) -> None:
    total = sample.plan.ledger.total
    for name in TOTALS:
        foot = cells(opened, f"#table-{name} tfoot tr")[0]
        assert foot[1] == f"{total.usd:,.2f}"
        assert foot[3] == f"{total.full_usd:,.2f}"
        body = cells(opened, f"#table-{name} tbody tr")
        assert sum(to_cents(row[1]) for row in body) == to_cents(foot[1])
    values = opened.execute_script(
        "return [...document.querySelectorAll('.headline .value')].map(v => v.textContent)"
    )
    assert values[1] == f"${total.usd:,.0f}"
    assert values[2] == f"${total.full_usd:,.0f}"


def cells(browser: Any, rows: str) -> list[list[str]]:
    script = (
        "return [...document.querySelectorAll(arguments[0])]"
        ".map(row => [...row.cells].map(cell => cell.textContent))"
    )
    found: list[list[str]] = browser.execute_script(script, rows)
    return found


def widths(browser: Any) -> list[float]:
    """Width of each drawn figure, in pixels."""
    script = "return [...document.querySelectorAll('.main-svg')].map(s => s.width.baseVal.value)"
    found: list[float] = browser.execute_script(script)
    return found


def to_cents(text: str) -> int:
    return round(float(text.replace(",", "")) * 100)


def test_a_click_on_a_heading_sorts_and_the_total_stays_below(opened: Any) -> None:
    click = "document.querySelectorAll('#table-by-job thead button')[arguments[0]].click()"
    for _ in range(2):  # numbers: first descending, then ascending
        opened.execute_script(click, 1)
    money = [to_cents(row[1]) for row in cells(opened, "#table-by-job tbody tr")]
    assert money == sorted(money)
    opened.execute_script(click, 0)
    names = [row[0].lower() for row in cells(opened, "#table-by-job tbody tr")]
    assert names == sorted(names)
    assert cells(opened, "#table-by-job tfoot tr")[0][0] == "Total"
    state = "return document.querySelector('#table-by-job [aria-sort]').getAttribute('aria-sort')"
    assert opened.execute_script(state) == "ascending"


@pytest.mark.parametrize("width", [360, 800, 1600])
def test_the_page_never_scrolls_sideways(opened: Any, width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        wait = pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait(opened, 10)
        wait.until(lambda _: max(widths(opened)) <= width)  # Plotly draws again in its own time
        fits = "const page = document.documentElement; return page.scrollWidth <= page.clientWidth"
        assert opened.execute_script(fits)
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_in_figures_follows_the_page(opened: Any, scheme: str) -> None:
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    ink = "getComputedStyle(document.querySelector('#figure-gantt .annotation-text')).fill"
    page = "getComputedStyle(document.body).color"
    assert opened.execute_script(f"return {ink} === {page}")
    ticks = "document.querySelectorAll('#figure-use [class*=axislayer] text')"
    fills = opened.execute_script(f"return [...{ticks}].map(t => getComputedStyle(t).fill)")
    soft = {"light": "rgb(86, 94, 103)", "dark": "rgb(163, 171, 180)"}[scheme]
    assert set(fills) == {soft}


def test_on_paper_the_figures_fit(opened: Any) -> None:
    opened.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert max(widths(opened)) <= 680
    opened.execute_script("dispatchEvent(new Event('afterprint'))")
    pdf = opened.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
    assert re.match("JVBERi", pdf["data"])  # %PDF in base 64
    assert opened.get_log("browser") == []


def test_the_page_of_a_whatif_is_drawn_and_asks_nothing_of_a_network(
    browser: Any, tmp_path: Path
) -> None:
    base = Row(name="as it is", money_usd=90.0, objective_usd=100.0, bound_usd=98.0, left_out=1)
    more = replace(base, name="pool/a.nodes+=8", objective_usd=92.0, first_order_usd=91.0)
    write_whatif("What if", [base, more], tmp_path / "whatif.html")
    browser.get((tmp_path / "whatif.html").as_uri())
    assert browser.get_log("browser") == []
    traces = "return document.querySelectorAll('#figure-whatif svg .trace').length"
    assert browser.execute_script(traces) == 4  # two lines, the ring, the plans
    assert cells(browser, "#table-whatif tbody tr")[1][:3] == ["pool/a.nodes+=8", "90.00", "92.00"]
