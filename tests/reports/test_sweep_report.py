"""The report of a sweep: what it says and draws, for few and many names, seeds, and runs that failed."""

import base64
import html.parser
import io
import re

import numpy as np
import pytest
from helpers.html_page import charts_of
from helpers.sample_sweeps import make as made
from helpers.sample_sweeps import settings as drawn
from PIL import Image
from scipy import stats

from nnfunc.reports import palette, vega
from nnfunc.reports.sweep import importance as forests
from nnfunc.reports.sweep.axes import build_axis, build_score_axis
from nnfunc.reports.sweep.importance import importance
from nnfunc.reports.sweep.report_data import build_sweep_data
from nnfunc.reports.sweep.significance import compare_settings
from nnfunc.reports.sweep.summary_text import describe_best, describe_importance, headline
from nnfunc.reports.sweep.sweep_charts import curve_charts, pair_charts, parallel_chart, slice_charts
from nnfunc.reports.sweep.sweep_page import RANKING, write_page


class Page(html.parser.HTMLParser):
    """What a page says below each title, its pictures by their words, and the cells of its tables."""

    void = {"meta", "img"}

    def __init__(self, text):
        super().__init__()
        self.open, self.titles, self.pictures, self.parts, self.rows = ([], [], {}, {"": ""}, {"": []})
        self.charts = charts_of(text)
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.pictures[dict(attrs)["alt"]] = dict(attrs)["src"]
        assert not {"href", "srcset", "data", "onload", "onerror"} & {name for name, _ in attrs}
        self.open += [] if tag in self.void else [tag]
        part = self.rows.setdefault(self.titles[-1] if self.titles else "", [])
        if tag == "tr":
            part.append([])
        if tag in ("td", "th"):
            part[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "h2" in self.open:
            self.titles.append(data)
            self.parts[data] = ""
            return
        title = self.titles[-1] if self.titles else ""
        self.parts[title] += data
        if {"td", "th"} & set(self.open):
            self.rows[title][-1][-1] += data


def written(result, folder, **options):
    text = write_page(result, folder, **options).read_text()
    assert not re.search(r"https?:|url\(|@import|<script[^>]*src|<link", text)
    found = Page(text)
    for address in found.pictures.values():
        assert address.startswith("data:image/png;base64,")
        Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).verify()
    return found


@pytest.fixture(scope="module", autouse=True)
def _small_forests():
    """A third of the trees, which is enough for what is known, and takes a third of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forests, "TREES", 30)
        yield


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """(result, page) of 40 runs with a hostile name, three diverged ones and a refused one."""
    hypers, scores = drawn(40)
    hypers = [h | {"<b>act": ("<relu>", "tanh")[i % 2]} for i, h in enumerate(hypers)]
    result = made(hypers, scores, diverged=(3, 5, 8), refused={7: "mlp: width <0>"}, layers={5: "blocks/<3>/up"})
    base = {"model": {"name": "<mlp>"}, "lr": 1.0}
    return result, written(result, tmp_path_factory.mktemp("sweep"), name="a <sweep>", base=base)


def test_page_holds_its_parts_in_order(full):
    assert full[1].titles == [
        "The best",
        "Parallel coordinates",
        "Learning curves",
        "Ranking of all settings with a score",
        "Slices",
        "Pairs",
        "Importance",
        "Diverged",
        "Refused",
        "Plan",
        "All runs have",
    ]
    assert len(full[1].pictures) == 5
    names = [f"slice{i}" for i in range(4)] + [f"pair{i}" for i in range(6)]
    assert list(full[1].charts) == ["parallel", *names, "curve-validation-accuracy", "curve-train-loss", "importance"]
    assert "40 runs of 100 steps in 12 s: 3 diverged, none stopped early, 1 refused." in (full[1].parts[""])


def test_page_names_the_best_and_doubts_a_single_run(full):
    result, own = full
    best = result.hypers[result.best]
    words = own.parts["The best"]
    assert f"The best is trial {result.best} (lr={best['lr']:.4g}" in words
    assert f"validation accuracy {result.scores[result.best]:.2%}" in words
    assert "cannot tell skill from luck" in words
    assert "seeds=3" in words
    assert "--seeds 3" in words


def test_table_has_every_setting_in_order(full):
    result, own = full
    heads, *rows = own.rows[RANKING]
    assert heads == ["rank", "trial", "validation accuracy", "lr", "batch_order", "dropout", "<b>act", "train loss"]
    order = np.argsort(np.where(np.isfinite(result.scores), -result.scores, np.inf))[:36]
    assert [int(row[1]) for row in rows] == order.tolist()
    assert [row[2] for row in rows] == [f"{result.scores[i]:.2%}" for i in order]
    assert float(rows[0][3]) == pytest.approx(result.hypers[order[0]]["lr"], rel=1e-5)
    assert "Without 4 settings that ended without a score." in own.parts[RANKING]


def test_failures_are_listed_with_layer_and_reason(full):
    result, own = full
    heads, *rows = own.rows["Diverged"]
    assert heads == ["trial", "step", "first layer", "hyperparameters"]
    assert [row[:3] for row in rows] == [["3", "50", ""], ["5", "50", "blocks/<3>/up"], ["8", "50", ""]]
    assert rows[0][3].startswith(f"lr={result.hypers[3]['lr']:.4g}, ".replace("e-0", "e-"))
    assert own.rows["Refused"][1][0] == "7"
    assert own.rows["Refused"][1][2] == "mlp: width <0>"


def test_plan_and_what_all_runs_have_are_told(full):
    result, own = full
    assert own.parts["Plan"].strip() == str(result.plan)
    assert own.rows["All runs have"] == [["model.name", "<mlp>"], ["decay", "0.01"]]  # not lr: it varies


def test_importance_stands_on_the_page(full):
    rows = full[1].rows["Importance"]
    assert [row[0] for row in rows][:2] == ["lr", "dropout"]
    assert "A random forest fitted to 36 settings" in full[1].parts["Importance"]
    assert "4 settings without a score are left out" in full[1].parts["Importance"]


def test_nothing_but_the_page_is_left_in_the_folder(tmp_path):
    result = made([{"lr": 0.1}], [0.5])
    assert write_page(result, tmp_path / "new" / "folder") == tmp_path / "new/folder/report.html"
    assert [path.name for path in (tmp_path / "new/folder").iterdir()] == ["report.html"]


FOUR = [{"lr": 1e-3}, {"lr": 1e-2}, {"lr": 0.1}, {"lr": 0.9}]


def test_seeds_give_intervals_and_settle_what_is_apart():
    scores = [0.2, 0.3, 0.4, 0.90, 0.91, 0.92, 0.70, 0.71, 0.75, 0.1, 0.1, 0.1]
    result = made(FOUR, scores, seeds=3, diverged=(10,))
    first, second = describe_best(build_sweep_data(result), result)
    low, high = stats.t.interval(0.95, 2, loc=0.91, scale=stats.sem([0.90, 0.91, 0.92]))
    assert first == (
        "The best is setting 1 (lr=0.01): validation accuracy 91.00% on average over 3 seeds, "
        f"95 % interval {low:.2%} to {high:.2%}."
    )
    assert second.startswith("The runner-up is setting 2 (lr=0.1): 72.00% on average")
    p = stats.ttest_rel([0.90, 0.91, 0.92], [0.70, 0.71, 0.75]).pvalue
    assert f"more than chance explains (paired t-test over 3 seeds: p = {p:.2g})" in second
    assert "12 runs (4 settings, 3 seeds each) of 100 steps" in headline(build_sweep_data(result), result)


@pytest.mark.parametrize("figure", ["max accuracy", "min loss"])
def test_settings_that_share_seeds_are_compared_in_pairs(figure):
    """Seeds differ by 0.1, the settings by 0.01 in each of them: their intervals overlap widely."""
    seeds = np.asarray([0.1, 0.2, 0.3])
    ahead = [0, 0.01, 0.5, 0.6] if figure == "min loss" else [0, 0.1, 0.59, 0.6]
    noise = 1e-3 * np.asarray([[0, 1, 2], [2, 0, 1], [1, 2, 0], [0, 2, 1]])
    clear, near = (np.ravel(np.asarray(ahead)[:, None] + seeds + k * noise) for k in (1, 60))
    for scores, words in ((near, "These seeds do not show which"), (clear, "more than chance")):
        result = made(FOUR, scores, seeds=3, figure=figure)
        own = build_sweep_data(result)
        one, other = (own.scores[trials] for trials in own.ranked[:2])
        p = stats.ttest_rel(one, other).pvalue
        said = describe_best(own, result)[1]
        assert words in said
        assert f"(paired t-test over 3 seeds: p = {p:.2g})" in said


def test_settings_with_seeds_of_their_own_are_compared_by_welch():
    one, other = np.asarray([1.0, 2.0, 3.0]), np.asarray([2.0, 2.5, 3.5])
    found = compare_settings(one, other, [0, 1, 2], [2, 3, 4])
    assert found.test == "Welch's t-test over 3 and 3 runs"
    assert found.p == pytest.approx(stats.ttest_ind(one, other, equal_var=False).pvalue)
    assert not found.is_significant
    assert compare_settings(one, one, [0, 1, 2], [0, 1, 2]).p == 1.0
    assert compare_settings(one, one + 1, [0, 1, 2], [0, 1, 2]).is_significant


def test_a_table_of_seeds_has_a_row_a_setting(tmp_path):
    own = written(made(FOUR, np.arange(12) / 20, seeds=3, diverged=(10,)), tmp_path)
    heads, *rows = own.rows[RANKING]
    assert heads[:5] == ["rank", "setting", "validation accuracy", "95 % interval", "lr"]
    assert [row[1] for row in rows] == ["2", "1", "0"]
    assert rows[0][2:5] == ["35.00%", "22.58% to 47.42%", "0.1"]  # 7/20 -+ 4.303 * 0.05 / sqrt(3)
    assert "Pairs" not in own.titles
    assert own.rows["Diverged"][1] == ["10", "50", "lr=0.9"]


def test_stopped_runs_count_with_their_last_score():
    result = made(FOUR, [0.2, 0.4, 0.6, 0.8], stopped_at={0: 10, 1: 50})
    own = build_sweep_data(result)
    np.testing.assert_allclose(own.scores, [0.02, 0.2, 0.6, 0.8], rtol=1e-6)
    assert own.stopped.tolist() == [True, True, False, False]
    words = headline(own, result)
    assert "of up to 100 steps" in words
    assert "2 stopped early" in words
    assert "1 at step 10, 1 at step 50" in words


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_sweep_of_which_all_diverged_has_a_page(tmp_path, seeds):
    result = made(FOUR, np.zeros(4 * seeds), seeds=seeds, diverged=range(4 * seeds))
    own = written(result, tmp_path)
    assert "There is no best setting: no run ended with a score." in own.parts["The best"]
    assert own.titles == ["The best", "Parallel coordinates", "Learning curves", "Importance", "Diverged", "Plan"]
    assert len(own.rows["Diverged"]) == 1 + 4 * seeds


def test_a_sweep_over_seeds_alone_has_a_page(tmp_path):
    own = written(made([{"lr": 0.1}], [0.4, 0.5, 0.6], seeds=3), tmp_path)
    assert own.titles == [
        "The best",
        "Learning curves",
        "Ranking of all settings with a score",
        "Plan",
        "All runs have",
    ]
    assert "There is no other setting to compare it with." in own.parts["The best"]


def test_odd_values_and_many_names_have_a_page(tmp_path):
    draw = np.random.default_rng(0)
    odd = [None, np.inf, 3.0, "$x_{", "_", np.arange(3), lambda x: x, (1, 2), {"in": 1}]
    hypers = [
        {f"name{k}": float(x) for k, x in enumerate(draw.uniform(size=7))} | {"odd": odd[i % 8]} for i in range(24)
    ]
    own = written(made(hypers, draw.uniform(size=24), figure="min loss"), tmp_path)
    words = own.parts["Pairs"]
    assert "Only the 4 most important of 8 hyperparameters are shown, without " in words
    assert sum(name.startswith("slice") for name in own.charts) == 8
    assert sum(name.startswith("pair") for name in own.charts) == 6  # of four names
    important = [row[0] for row in own.rows["Importance"]]
    assert f"without {', '.join(important[4:])}." in words


def test_importance_has_known_answers():
    result = made(*drawn(120))
    found = importance(result)
    assert found is not None
    assert found.names[:2] == ["lr", "dropout"]
    assert found.values[0] > 5 * found.values[1] > 0
    assert found.values[2] < 0.02
    assert found.values.sum() == pytest.approx(1)
    assert found.values.min() >= 0
    assert found.r2 > 0.8
    assert found.settings == 120
    assert found.is_meaningful
    again = importance(result)
    np.testing.assert_array_equal(found.values, again.values)
    np.testing.assert_array_equal(found.deviations, again.deviations)


def test_importance_of_chance_is_judged_by_settings_not_seen():
    hypers, _ = drawn(60)
    result = made(hypers, np.random.default_rng(3).uniform(size=60))
    found = importance(result)
    assert found.r2 < 0.3  # of those it was fitted to, 0.8
    assert found.values.sum() == pytest.approx(1) or not found.values.any()
    assert not found.is_meaningful
    assert "too low for meaningful importances" in describe_importance(found, build_sweep_data(result))


def test_importance_of_few_settings_is_doubted():
    result = made(*drawn(11))
    assert "Fewer than 12 settings are too few" in describe_importance(importance(result), build_sweep_data(result))
    assert importance(made(*drawn(4))) is None
    assert importance(made([{"lr": 1.0}] * 20, np.arange(20) / 20)) is None
    assert importance(made(drawn(20)[0], np.full(20, 0.5))) is None


def test_importance_takes_categories_whole_and_seeds_as_means():
    acts = ["a", "b", "c", "d"]
    hypers = [{"act": acts[(i * 7) % 4], "x": float(i % 5)} for i in range(40)]
    scores = np.repeat([{"b": 0.8}.get(h["act"], 0.2) for h in hypers], 2)
    scores[::2] += 0.1  # the seeds differ, the means do not
    found = importance(made(hypers, scores, seeds=2, diverged=(0, 1, 2)))
    assert found.settings == 39  # one of which no run ended, one of which one did
    assert found.names[0] == "act"
    assert found.values[0] > 0.9 > 0.1 > found.values[1]


def test_axes_are_logarithms_levels_and_categories():
    one = build_axis("lr", [1e-5, 1e-3, 1e-1])
    assert (one.scale, one.positions.tolist()) == ("log", [-5, -3, -1])
    assert build_axis("x", [0.001234, 0.3, 0.5, 0.6]).scale == "linear"  # uniform, with one near zero
    assert build_axis("x", [0.0, 0.25, 0.5]).scale == "linear"
    assert build_axis("decay", [0.1, 0.0, 1e-4]).positions.tolist() == [2, 0, 1]
    assert build_axis("off", [2.0, None, np.inf, 1.0]).labels == ["1", "2", "None", "inf"]
    assert build_axis("flag", [True, False]).labels == ["False", "True"]
    assert len(set(build_axis("f", [lambda x: x, lambda x: 2 * x]).labels)) == 2


def test_axis_of_scores_ends_before_a_few_wild_ones():
    scores = np.asarray([*np.linspace(1, 2, 20), 60.0])
    assert build_score_axis("loss", scores, "min").high < 3
    assert build_score_axis("loss", scores, "min").fractions[-1] == 1
    assert build_score_axis("r2", -scores, "max").low > -3
    assert build_score_axis("loss", np.asarray([1e-4, 1.0]), "min").scale == "log"


def test_an_axis_is_logarithmic_where_the_space_is(tmp_path):
    values = [0.1, 0.15, 0.2, 0.31]
    assert build_axis("lr", values).scale == "linear"
    assert build_axis("lr", values, log=True).scale == "log"
    assert build_axis("lr", [0.0, *values], log=True).scale == "linear"
    result = made([{"lr": value} for value in values], [0.1, 0.2, 0.3, 0.4])
    page = Page(write_page(result, tmp_path, log=("lr",)).read_text())
    assert page.charts["slice0"]["spec"]["encoding"]["x"]["scale"]["type"] == "log"


def test_ticks_are_round():
    assert build_axis("x", [*np.linspace(0.03, 0.97, 20)]).labels == ["0.2", "0.4", "0.6", "0.8"]
    assert build_axis("x", [*range(13, 290, 7)]).labels == ["100", "200"]


def test_the_winner_has_its_test_metrics_with_an_interval(tmp_path):
    result = made(FOUR, [0.2, 0.8, 0.4, 0.6])
    test = {"accuracy": (0.91, 0.88, 0.93), "loss": (0.3, np.nan, np.nan)}
    path = write_page(result, tmp_path, test=test, interval="Of a bootstrap.")
    words = Page(path.read_text()).parts["The best"]
    assert "the best has accuracy 91.00% (95 % interval 88.00% to 93.00%), loss 0.3. Of a bootstrap." in words


def test_parallel_lines_run_through_values_to_scores():
    own = build_sweep_data(made(FOUR, [0.2, 0.8, 0.4, 0.6], diverged=(3,)))
    chart = parallel_chart(own, own.axes)
    rows = {row["trial"]: row for row in chart.rows()}
    assert len(rows) == 4
    assert (rows["0"]["p0"], rows["0"]["p1"]) == (0, 0)  # the least rate has the least score
    assert rows["1"]["p0"] == pytest.approx(0.338, abs=1e-3)  # log10(0.01 / 0.001) / log10(900)
    assert rows["1"]["p1"] == 1
    assert rows["3"]["p1"] < 0  # diverged, beyond the worst
    assert [rows[str(i)]["rank"] for i in range(4)] == [3, 1, 2, None]
    assert chart.rows()[-1]["trial"] == "1"  # the best is drawn last
    with Image.open(io.BytesIO(vega.draw_png([chart]))) as image:
        colours = {colour for _, colour in image.convert("RGBA").convert("RGB").getcolors(1 << 20)}
    near = lambda colour: min(np.abs(np.subtract([*bytes.fromhex(colour[1:])], other)).sum() for other in colours)
    assert max(near(colour) for colour in (palette.BEST, palette.ALERT)) < 40


def test_one_bad_score_does_not_flatten_the_colours_of_the_rest():
    own = build_sweep_data(made([{"lr": 0.1 * i} for i in range(1, 6)], [1.0, 1.1, 1.2, 1.3, 1e9], figure="min loss"))
    assert [row["rank"] for row in sorted(parallel_chart(own, own.axes).rows(), key=lambda row: row["trial"])] == [
        1,
        2,
        3,
        4,
        5,
    ]


def test_slices_and_pairs_have_every_run():
    hypers = [{"act": "ab"[i % 2], "x": i / 7} for i in range(8)]
    own = build_sweep_data(made(hypers, np.arange(8) / 10, diverged=(6,)))
    act, x = slice_charts(own, own.axes)
    assert act.data["a"] == ["a", "b"] * 4
    assert act.spec["encoding"]["x"]["type"] == "ordinal"
    np.testing.assert_allclose(x.data["b"], [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0, 0.7])  # diverged at the worst end
    (pair,) = pair_charts(own, own.axes)
    assert pair.title == "act and x"
    assert pair.data["a"] == act.data["a"]
    assert pair.data["rank"][7] == 1


def test_curves_mark_the_best_and_where_runs_diverged():
    result = made(FOUR, [0.2, 0.8, 0.4, 0.6], diverged=(3,))
    own = build_sweep_data(result)
    accuracy, loss = curve_charts(own, result)
    last = {row["trial"]: (row["step"], row["value"]) for row in accuracy.rows()}
    assert last["1"] == (100, pytest.approx(0.8))
    assert last["3"] == (50, pytest.approx(0.3))
    crosses = lambda chart: next(part["data"]["values"] for part in chart.spec["layer"] if "data" in part)
    assert [(c["step"], c["value"]) for c in crosses(accuracy)] == [(50, pytest.approx(0.3))]
    assert [(c["step"], c["value"]) for c in crosses(loss)] == [(50, pytest.approx(1.5))]


def test_trials_with_seeds_are_linked_by_their_setting(tmp_path):
    result = made(FOUR, np.arange(12) / 20, seeds=3)
    own = build_sweep_data(result)
    assert parallel_chart(own, own.axes).data["trial"].count("2") == 3
    assert 'data-trial="3"' in write_page(result, tmp_path).read_text()
