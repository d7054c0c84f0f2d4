"""Strict settings for every test, doctest and README block."""

import base64
import ctypes
import gc
import importlib
import importlib.util
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import pytest

import nnfunc as nf

COMPILER = os.environ.get("NNFUNC_TEST_COMPILER", "")
"""Nothing: every test, compiled quickly. "users" takes the tests of USERS_COMPILER alone, with the
compiler as users have it (`make test-compiler`); "quick" takes all others."""

USERS_COMPILER = {
    "test_attention.py": "",
    "test_conv.py": "",
    "test_layer_numbers.py": "",
    "test_layers.py": "",
    "test_losses.py": "",
    "test_metrics.py": "",
    "test_mixture_of_experts.py": "",
    "test_pool.py": "",
    "test_recurrent.py": "",
    "test_vector_norm.py": "",
    "test_xla_flags.py": "",
    "test_laws.py": "plain_jax_works leading_axes_are_free",
}
"""File -> the tests in it that run with the compiler as users have it, by parts of their names; all by default."""

os.environ["NNFUNC_TUNING"] = "off"
"""Forms of convolutions are those of the code, whatever `nnfunc tune` has measured on this machine."""

# As options of this process, not as XLA_FLAGS in the environment: programs that the tests start
# then see the machine as a user's would.
jax.config.update("jax_platforms", os.environ.get("JAX_PLATFORMS", "cpu"))
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_dtype_promotion", "strict")


def _compile_quickly():
    """Let XLA write code for CPUs in its older way, which takes half of the time to compile.

    It was dropped between jaxlib 0.10 and 0.12, and a name that XLA does not know ends the process.
    XLA reads the environment once, at the first program.
    """
    if not jaxlib.__version__.startswith("0.10."):
        return
    before = os.environ.get("XLA_FLAGS")
    os.environ["XLA_FLAGS"] = f"{before or ''} --xla_cpu_use_fusion_emitters=false"
    jnp.zeros(()).block_until_ready()
    if before is None:
        del os.environ["XLA_FLAGS"]
    else:
        os.environ["XLA_FLAGS"] = before


# Most of the time goes into compiling: keep the programs for the next run, each worker its own.
# A new checkout, as CI has, would only pay for writing them.
if not os.environ.get("CI"):
    worker = os.environ.get("PYTEST_XDIST_WORKER", "alone")
    cache = Path(__file__).parent / ".pytest_cache" / f"jax{COMPILER}" / worker
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

if COMPILER != "users":
    _compile_quickly()  # the first program, at which JAX decides about the cache


def _for_users_compiler(item):
    parts = USERS_COMPILER.get(item.path.name)
    return parts is not None and (not parts or any(part in item.name for part in parts.split()))


def pytest_ignore_collect(collection_path):
    """Import no file of which no test runs here; None leaves it to pytest."""
    if COMPILER == "users" and collection_path.suffix == ".py":
        return collection_path.name not in USERS_COMPILER or None
    if collection_path.name == "http_application.py" and importlib.util.find_spec("starlette") is None:
        return True  # the extra serve is not installed
    return None


def pytest_collection_modifyitems(config, items):
    """Leave to the other run of pytest what it takes."""
    if COMPILER:
        here, there = [], []
        for item in items:
            (here if _for_users_compiler(item) == (COMPILER == "users") else there).append(item)
        items[:] = here
        config.hook.pytest_deselected(items=there)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Compile without optimization: what nearly all tests compile runs once, for microseconds.

    A test of speed, memory, or of what the compiler makes of a program has the mark `optimized`.
    """
    quick = COMPILER != "users" and item.get_closest_marker("optimized") is None
    jax.config.update("jax_disable_most_optimizations", quick)


MEMORY = 6 * 2**30
"""Bytes that all workers together may take."""
SPARE = 2**30
"""Of them, what is left to programs that the tests start, and to the process that hands out tests."""
MAPS = 20_000
"""Of the 65,530 pieces that Linux lets a process's memory be in: every compiled program is a few."""


class _Memory:
    """What this worker takes, and when it has to give some back. Only Linux tells.

    Compiled programs hold most of it, 330 of 610 MB after tests/layers/test_pool.py. They stay while they fit,
    for later tests share them. glibc keeps what they held until it is told to give it back.
    """

    def __init__(self):
        workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
        self.budget = (MEMORY - SPARE) // workers
        self.limit = 0.7 * self.budget
        self.forgotten = 0

    def watch(self, file_ends):
        """Forget compiled programs when they take more than the limit, or are too many pieces."""
        if _status("VmRSS") > self.limit or (file_ends and _maps() > MAPS):  # to count takes long
            jax.clear_caches()
            gc.collect()
            _trim()
            self.forgotten += 1
            # Where little could go, the next time is when as much again has come.
            self.limit = max(0.7 * self.budget, _status("VmRSS") + 0.2 * self.budget)

    def told(self):
        return {"peak": _status("VmHWM"), "budget": self.budget, "forgotten": self.forgotten}


def _status(name):
    """Bytes, from a line of the process's status: VmRSS, or VmHWM for the largest so far."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def _maps():
    try:
        with open("/proc/self/maps") as lines:
            return sum(1 for _ in lines)
    except OSError:
        return 0


def _trim():
    """Give freed memory back to the system, where glibc keeps it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


memory = _Memory()
told = {}


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    """Between files, and within one that is heavy: programs that several tests share stay."""
    if nextitem is not None:
        memory.watch(nextitem.path != item.path)


def pytest_sessionfinish(session):
    """A worker hands its memory to the process that writes the summary."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["memory"] = memory.told()
    elif not told:
        told["alone"] = memory.told()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    told[node.gateway.id] = getattr(node, "workeroutput", {}).get("memory")


def pytest_terminal_summary(terminalreporter):
    """The largest memory of each worker, and whether it was more than its part."""
    for name, figures in sorted(told.items()):
        if figures and figures["peak"]:
            peak, budget = figures["peak"] / 2**30, figures["budget"] / 2**30
            over = "" if peak <= budget else ", TOO MUCH"
            cleared = f"programs forgotten {figures['forgotten']} times"
            terminalreporter.write_line(f"memory of {name}: at most {peak:.2f} GB of {budget:.2f}{over}; {cleared}")


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture(scope="session", autouse=True)
def _names_in_doctests(doctest_namespace):
    doctest_namespace.update(jax=jax, jnp=jnp, np=np, nf=nf)


@pytest.fixture(scope="session")
def shipped(tmp_path_factory):
    """The folder of copies of the shipped configs, beside small data of their scripts."""
    pytest.importorskip("sklearn")
    from helpers.shipped_configs import copy_configs

    return copy_configs(tmp_path_factory.mktemp("shipped"))


@pytest.fixture(scope="module")
def no_compilation_cache():
    """The commands would else change the compilation cache and malloc of this whole process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", "of nobody")
        patch.setenv("NNFUNC_MALLOC", "default")
        patch.setattr("nnfunc.malloc._is_keeping", False)  # a command of another test may have set it
        yield


WITHOUT_PICTURES = {"commands", "config", "distributed", "interop", "runs", "sweeps"}
"""Folders of tests in which reports have an empty picture: drawing takes as long as a short training."""
PICTURES = {"test_compare.py", "test_list_runs.py"}
"""Files in them that look at pictures."""
EMPTY_PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABAQMAAAAl21bKAAAAA1BMVEX///+nxBvIAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)


@pytest.fixture(scope="module", autouse=True)
def _pictures(request):
    """Reports have an empty picture in the tests of other things."""
    file = Path(request.node.path)
    if file.parent.name not in WITHOUT_PICTURES or file.name in PICTURES:
        yield
        return
    from nnfunc.reports import vega

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vega, "draw_png", lambda *charts, **options: EMPTY_PICTURE)
        yield


@pytest.fixture
def no_report(monkeypatch):
    """A sweep with a folder draws no report, which takes seconds."""
    sweep = importlib.import_module("nnfunc.sweeps.sweep")  # the package exports a function of that name

    monkeypatch.setattr(sweep, "REPORT", None)
