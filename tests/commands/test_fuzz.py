"""Configs, data files and folders of runs that were edited: none ends in a traceback, hangs or fills memory."""

import gc
import os
import sys

import jax
import pytest
from helpers.hostile_programs import create_runs, run_case

CASES, CHUNKS = 2000, 20
pytestmark = [
    pytest.mark.usefixtures("no_compilation_cache"),
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="pipes, links and alarms of Unix"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """(folder, configs) of what the cases are copies of."""
    folder, here = tmp_path_factory.mktemp("hostile"), os.getcwd()
    try:
        yield folder, create_runs(folder)
    finally:
        os.chdir(here)


def wrong_of(place, tmp_path, seeds, monkeypatch, **options):
    folder, configs = place
    monkeypatch.chdir(tmp_path)
    found = []
    for seed in seeds:
        work = tmp_path / str(seed)
        work.mkdir()
        found.append(run_case(folder, work, seed, configs, **options))
    return [problem for problem in found if problem]


def test_edited_files_get_one_message(place, tmp_path, monkeypatch):
    wrong = wrong_of(place, tmp_path, range(60), monkeypatch, train_fraction=0.0)
    assert not wrong, "\n\n".join(wrong[:5])


@pytest.mark.skipif(not os.environ.get("NNFUNC_LONG"), reason="minutes: make test-slow")
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_two_thousand_cases(place, tmp_path, monkeypatch, chunk):
    count = CASES // CHUNKS
    seeds = range(1000 + chunk * count, 1000 + (chunk + 1) * count)
    wrong = wrong_of(place, tmp_path, seeds, monkeypatch)
    jax.clear_caches()
    gc.collect()
    assert not wrong, f"{len(wrong)} of {count}:\n" + "\n\n".join(wrong[:10])
