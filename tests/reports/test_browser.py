"""The pages in a real browser: what the cursor shows, what a brush filters, no errors, and no faults of accessibility.

They need a chromium, Playwright and axe: `apt install chromium` and the extra test.
"""

import json
import shutil
import socket
import threading

import numpy as np
import pytest
from helpers import sample_runs, sample_sweeps
from sklearn.datasets import load_digits

from nnfunc.commands.list_runs.collect_runs import collect_runs
from nnfunc.commands.list_runs.runs_page import write_runs_page
from nnfunc.evaluation import HeldOut
from nnfunc.reports import run as run_report
from nnfunc.reports.run.evaluation_section import build_evaluation
from nnfunc.reports.run.example_html import InputFormat
from nnfunc.reports.sweep import importance as forests
from nnfunc.reports.sweep.sweep_page import write_page

pytest.importorskip("vl_convert")
playwright = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="no chromium"), pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Opens a page, and fails where it logs an error or asks for anything from elsewhere."""
    errors, contexts = [], []

    def open_page(address, scheme="light", width=1200, **options):
        context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: message.type in ("error", "warning") and errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        local = ("file:", "data:", "blob:", "http://127.0.0.1")
        page.on("request", lambda request: request.url.startswith(local) or errors.append(request.url))
        page.goto(str(address))
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []


def drawn(page, name):
    """The element of a chart, once it is drawn."""
    plot = page.locator(f'[data-chart="{name}"]')
    plot.scroll_into_view_if_needed()
    page.wait_for_function('name => document.querySelector(`[data-chart="${name}"]`).view', arg=name)
    return plot


def sample_evaluation(count=200):
    """The evaluation of a model of digits that is often wrong."""
    digits, draw = load_digits(), np.random.default_rng(0)
    logits = draw.normal(0, 1.6, (count, 10))
    logits[np.arange(count), digits.target[:count]] += 3
    held_out = HeldOut("classes", logits, digits.target[:count], tuple(f"digit {i}" for i in range(10)), None)
    return held_out, build_evaluation(held_out, "test", lambda i: digits.images[i], InputFormat(), {"accuracy": 0.1})


@pytest.fixture(scope="module")
def run_page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    sample_runs.make(folder, sample_runs.metrics(400, sick=True), result=sample_runs.RESULT | {"step": 350})
    run_report.write_report(folder, sample_evaluation()[1])
    return f"file://{folder / 'report.html'}"


@pytest.fixture(scope="module")
def sweep_page(tmp_path_factory):
    hypers, scores = sample_sweeps.settings(40)
    hypers = [h | {"<b>act": ("<relu>", "tanh")[i % 2]} for i, h in enumerate(hypers)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forests, "TREES", 10)
        path = write_page(sample_sweeps.make(hypers, scores, diverged=(3, 5)), tmp_path_factory.mktemp("sweep"))
    return f"file://{path}"


def test_the_cursor_shows_values_and_a_switch_makes_a_log_scale(visit, run_page):
    page = visit(run_page)
    plot = drawn(page, "curve-loss")
    box = plot.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tooltip = page.locator("#vg-tooltip-element.visible")
    tooltip.wait_for()
    text = tooltip.inner_text()
    assert "step" in text
    assert "value" in text
    assert any(series in text for series in ("train", "validation")), text
    button = page.get_by_role("button", name="Logarithmic scale of loss")
    assert button.get_attribute("aria-pressed") == "false"
    ticks = plot.locator(".role-axis-label text").all_inner_texts()
    button.click()
    page.wait_for_timeout(300)
    assert button.get_attribute("aria-pressed") == "true"
    assert plot.locator(".role-axis-label text").all_inner_texts() != ticks


def test_the_cursor_shows_the_share_of_a_bin(visit, run_page):
    page = visit(run_page)
    box = drawn(page, "histogram-0").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 50)
    tooltip = page.locator("#vg-tooltip-element.visible")
    tooltip.wait_for()
    names, values = (tooltip.locator("td").all_inner_texts()[i::2] for i in (0, 1))
    assert [name.strip(": ") for name in names] == ["step", "values", "share"]
    low, high = (float(text.replace("\N{MINUS SIGN}", "-")) for text in values[1].split(" to "))
    assert low < high
    assert 0 < float(values[2].rstrip("%")) <= 100


@pytest.mark.parametrize(
    "chart, parts",
    [
        ("layers-gradient_norm", ["layer", "step", "gradient norm"]),
        ("confusion", ["truth", "prediction", "count", "share"]),
    ],
)
def test_a_cell_of_a_heat_map_shows_its_value(visit, run_page, chart, parts):
    page = visit(run_page)
    marks = drawn(page, chart).locator(".mark-rect.role-mark path")
    marks.nth(marks.count() // 2).hover()
    tooltip = page.locator("#vg-tooltip-element.visible")
    tooltip.wait_for()
    cells = tooltip.locator("td").all_inner_texts()
    assert [name.strip(": ") for name in cells[::2]] == parts
    assert all(cells), cells


def test_a_chart_zooms_and_comes_back(visit, run_page):
    page = visit(run_page)
    plot = drawn(page, "curve-accuracy")
    domain = "plot => plot.view.scale('x').domain()"
    before = plot.evaluate(domain)
    box = plot.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 100)
    page.mouse.wheel(0, -300)
    page.wait_for_timeout(200)
    assert plot.evaluate(domain) == before  # the wheel alone scrolls the page
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 100)
    page.keyboard.down("Control")
    page.mouse.wheel(0, -300)
    page.keyboard.up("Control")
    page.wait_for_function(
        "([plot, ends]) => String(plot.view.scale('x').domain()) !== String(ends)", arg=[plot.element_handle(), before]
    )
    zoomed = plot.evaluate(domain)
    assert before[0] < zoomed[0] < zoomed[1] < before[1]
    page.mouse.dblclick(box["x"] + box["width"] / 2, box["y"] + 100)
    page.wait_for_timeout(300)
    assert plot.evaluate(domain) == before


def test_a_cell_shows_the_examples_behind_it(visit, run_page):
    held_out, _ = sample_evaluation()
    truth, prediction = held_out.target, held_out.output.argmax(1)
    cells, counts = np.unique(np.stack([truth, prediction])[:, truth != prediction], axis=1, return_counts=True)
    true, guess = cells[:, counts.argmax()]
    page = visit(run_page)
    plot = drawn(page, "confusion")
    plot.locator(f'path[aria-label*="prediction: digit {guess}"][aria-label*="truth: digit {true};"]').first.click()
    panel = page.locator("#examples")
    panel.locator(".example").first.wait_for()
    assert panel.locator("h3").inner_text() == f"digit {true} predicted as digit {guess}: {counts.max()}"
    assert panel.locator(".example img").count() == counts.max()
    assert f"digit {true} → digit {guess}" in panel.locator(".example b").first.inner_text()
    page.locator("button[data-examples]").last.click()  # by keyboard, too
    assert "predicted as" in panel.locator("h3").inner_text()


def test_a_table_sorts_filters_and_downloads(visit, run_page, tmp_path):
    page = visit(run_page)
    table = page.locator("#table-classes")
    column = lambda: [float(text) for text in table.locator("tbody tr:not([hidden]) td:nth-child(3)").all_inner_texts()]
    table.get_by_role("button", name="recall").click()
    assert column() == sorted(column(), reverse=True)
    table.get_by_role("button", name="recall").click()
    assert column() == sorted(column())
    assert table.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"
    bar = table.locator("xpath=../preceding-sibling::div[1]")
    bar.get_by_role("searchbox").fill("digit 7")
    assert table.locator("tbody tr:not([hidden])").count() == 1
    with page.expect_download() as download:
        bar.get_by_role("button", name="Download CSV").click()
    download.value.save_as(tmp_path / "classes.csv")
    head, row = (tmp_path / "classes.csv").read_text().splitlines()
    assert head.split(",")[:3] == ["class", "precision", "recall"]
    assert row.startswith("digit 7,0.")


def brush(page, plot, axis, low, high):
    """Drag along an axis of the parallel coordinates between two fractions."""
    box = plot.evaluate(
        """(plot, axis) => {
          const [x, y] = plot.view.origin(), box = plot.querySelector('canvas, svg').getBoundingClientRect();
          const scale = box.width / plot.querySelector('canvas, svg').getAttribute('width');
          return {x: box.x + x + (axis + .5) * plot.view.signal('gap'), y: box.y + y, height: plot.view.signal('height')};
        }""",
        axis,
    )
    page.mouse.move(box["x"], box["y"] + (1 - low) * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"], box["y"] + (1 - high) * box["height"], steps=5)
    page.mouse.up()
    page.wait_for_timeout(300)


def test_a_brush_filters_the_table_and_the_curves(visit, sweep_page):
    page = visit(sweep_page)
    drawn(page, "curve-validation-accuracy")
    plot = drawn(page, "parallel")
    rows = page.locator("#table-ranking tbody tr:not([hidden])")
    assert rows.count() == 38
    last = plot.evaluate("plot => plot.view.data('names').length - 1")
    brush(page, plot, last, 0.8, 1.05)
    inside = plot.evaluate("plot => plot.view.data('inside').map(row => [row.trial, row.rank])")
    assert 0 < len(inside) < 38
    assert sorted(rank for _, rank in inside) == list(range(1, len(inside) + 1))  # the best ones
    assert rows.count() == len(inside)
    curves = page.locator('[data-chart="curve-validation-accuracy"]')
    names = curves.evaluate("plot => Object.keys(plot.view.signal('chosen'))")
    assert sorted(names) == sorted(trial for trial, _ in inside)
    page.get_by_role("button", name="Choose all runs").click()
    page.wait_for_timeout(300)
    assert rows.count() == 38


def test_a_filter_of_the_table_filters_the_charts(visit, sweep_page):
    page = visit(sweep_page)
    curves = drawn(page, "curve-validation-accuracy")
    bar = page.locator("#table-ranking").locator("xpath=../preceding-sibling::div[1]")
    bar.get_by_role("searchbox").fill("<relu>")
    page.wait_for_timeout(300)
    count = page.locator("#table-ranking tbody tr:not([hidden])").count()
    assert 0 < count < 38
    assert len(curves.evaluate("plot => Object.keys(plot.view.signal('chosen'))")) == count


@pytest.mark.parametrize("scheme, width", [("light", 1200), ("dark", 360)])
@pytest.mark.parametrize("name", ["run_page", "sweep_page"])
def test_no_serious_fault_of_accessibility(visit, request, name, scheme, width):
    page = visit(request.getfixturevalue(name), scheme, width)
    names = page.evaluate("[...document.querySelectorAll('[data-chart]')].map(plot => plot.dataset.chart)")
    for chart in names:
        drawn(page, chart)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    violations = axe.Axe().run(page).response["violations"]
    serious = [v for v in violations if v["impact"] in ("serious", "critical")]
    faults = [f"{v['id']}: {node['html'][:300]}" for v in serious for node in v["nodes"][:3]]
    assert not faults, "\n".join(faults)


def test_without_javascript_there_are_pictures(visit, run_page):
    page = visit(run_page, java_script_enabled=False)
    assert page.locator("noscript img").count() >= 4
    assert page.locator("noscript img").first.is_visible()
    assert not page.locator(".plot").first.is_visible()
    assert "head/weight: weights" in page.locator("details[open] table").inner_text()
    assert "digit 7" in page.locator("#table-classes").inner_text()


@pytest.mark.parametrize("name, count", [("run_page", 3), ("sweep_page", 1)])
def test_gestures_are_told_where_they_work(visit, request, name, count):
    for javascript in (True, False):
        page = visit(request.getfixturevalue(name), java_script_enabled=javascript)
        hints = page.locator(".gestures")
        assert [hints.nth(i).is_visible() for i in range(hints.count())] == [javascript] * count
        text = page.locator("main").inner_text()
        assert any(word in text for word in ("Drag", "Click a", "ouble-click")) == javascript


def test_runs_of_several_metrics_in_one_page(visit, tmp_path):
    for i in range(12):
        metric = "mae" if i % 2 else "accuracy"
        rows = [row for row in sample_runs.metrics(200, watch_every=10**9, log_every=100) if row["split"] != "layers"]
        for row in rows:
            row["loss"] += i
            if "accuracy" in row:
                row[metric] = row.pop("accuracy") - i / 100
            if i == 3 and row["split"] == "validation":
                row["only_here"] = 1 / row["step"]
        best = f"{'min' if i % 2 else 'max'} {metric}"
        sample_runs.make(tmp_path / f"run-{i}", rows, best=best, result=sample_runs.RESULT)
    entries = collect_runs(tmp_path)
    write_runs_page(entries, tmp_path / "runs.html")
    page = visit(f"file://{tmp_path / 'runs.html'}")  # no warning of a chart without the best run
    ranks = "plot => Object.fromEntries(plot.view.data('rows').map(row => [row.series, row.rank]))"
    by_run = drawn(page, "curve-loss").evaluate(ranks)
    assert sorted(by_run[f"run-{i}"] for i in range(1, 12, 2)) == [1, 2, 3, 4, 5, 6]
    assert by_run["run-0"] == 1
    drawn(page, "curve-only_here")


@pytest.fixture
def served(tmp_path):
    """(folder, address): `nnfunc ui` for a folder with two runs, one of which trains.

    A test names it before `visit`, whose pages poll the server and so have to close first.
    """
    uvicorn = pytest.importorskip("uvicorn")
    pytest.importorskip("starlette")
    from nnfunc.commands.ui.serve_ui import create_application

    for i in range(2):
        sample_runs.make(tmp_path / f"run-{i}", sample_runs.metrics(200, watch_every=1000), result=sample_runs.RESULT)
    (tmp_path / "run-1" / "result.json").unlink()
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_application(tmp_path, ["127.0.0.1"]), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield tmp_path, f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()
    listener.close()


def test_live_curves_grow_and_runs_are_compared(served, visit):
    folder, address = served
    page = visit(f"{address}/run/run-1/")
    plot = drawn(page, "curve-loss")
    last = "plot => Math.max(...plot.view.data('rows').map(row => row.step))"
    assert plot.evaluate(last) == 200
    with (folder / "run-1" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"split": "train", "step": 210, "seconds": 9.0, "loss": 0.2, "accuracy": 0.9}) + "\n")
    page.wait_for_function(
        "plot => Math.max(...plot.view.data('rows').map(row => row.step)) === 210", arg=plot.element_handle()
    )
    page = visit(f"{address}/")
    assert page.locator("#table-runs tbody tr").count() == 2
    page.get_by_label("compare run-0").check()
    page.get_by_role("button", name="Compare the checked runs").click()
    page.wait_for_url("**/?run=run-0")
    assert page.locator("#table-runs tbody tr").count() == 1
    page.get_by_role("link", name="run-0").click()
    page.wait_for_url("**/run/run-0/")
    assert page.locator("h1").inner_text() == "run-0"


@pytest.mark.slow
def test_a_page_of_a_thousand_runs_opens_quickly(visit, tmp_path):
    draw = np.random.default_rng(0)
    for i in range(1000):
        peak, dropout = float(10 ** draw.uniform(-4, -1)), float(draw.uniform(0, 0.5))
        rows = sample_runs.metrics(1000, watch_every=10**9, log_every=100, peak=peak, final_loss=0.2 + dropout)
        sample_runs.make(tmp_path / f"run-{i}", rows, peak=peak, dropout=dropout, result=sample_runs.RESULT)
    write_runs_page(collect_runs(tmp_path), tmp_path / "runs.html")
    assert (tmp_path / "runs.html").stat().st_size < 2e6
    page = visit("about:blank")
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})  # other processes do not count
    page.goto(f"file://{tmp_path / 'runs.html'}")
    page.wait_for_function("[...document.querySelectorAll('[data-chart]')].slice(0, 2).every(plot => plot.view)")
    assert page.locator("#table-runs tbody tr").count() == 1000
    metrics = {entry["name"]: entry["value"] for entry in session.send("Performance.getMetrics")["metrics"]}
    assert 0 < metrics["ThreadTime"] < 2, metrics
