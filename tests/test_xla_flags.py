"""The compiler's known faults: the flag that cures them is set in time, and what it cures is right."""

import json
import os
import subprocess
import sys
import warnings

import jax
import pytest
from helpers.project import ROOT

from nnfunc import xla_flags
from nnfunc.debug.checks import compiler_checks

FAULT = xla_flags.CompilerFault("is late", "--xla_made_up=-some")
known = pytest.mark.skipif(xla_flags.known_fault() is None, reason="this jaxlib has no known fault")

# What a user writes around nnfunc, and how many of its 40,000 rows are wrong.
USER = """
import json, os, sys, warnings
{before}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import nnfunc
import jax, jax.numpy as jnp, numpy as np
W = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
x = np.random.default_rng(1).normal(size=(40_000, 3)).astype(np.float32)
y = np.asarray(jax.jit(jax.vmap(lambda row: jnp.sum((W @ row) ** 2)))(x))
wrong = int((abs(y - ((x @ W.T) ** 2).sum(axis=1)) > 0.01 * (1 + y)).sum())
from nnfunc.debug.checks.compiler_checks import check_compiler
findings = [str(finding) for finding in check_compiler()]
told = [str(warning.message) for warning in caught if warning.category is RuntimeWarning]
print(json.dumps([wrong, told, findings, os.environ.get("XLA_FLAGS"), jax.device_count()]))
"""


def run(before: str = "", **variables: str) -> list:
    """[wrong rows, warnings, findings of doctor, XLA_FLAGS, devices] of a program of its own."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", **variables}
    command = [sys.executable, "-c", USER.format(before=before)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_import_mends_the_compiler_and_keeps_users_flags(tmp_path):
    """Given in a file, as XLA allows; the file's words are in XLA_FLAGS then."""
    file = tmp_path / "flags"
    file.write_text("--xla_force_host_platform_device_count=3\n")
    wrong, told, findings, flags, devices = run("import jax", XLA_FLAGS=str(file))
    assert (wrong, told, findings, devices) == (0, [], [], 3)
    fault, fast = xla_flags.known_fault(), xla_flags.FAST_CONVOLUTIONS.get(xla_flags.JAXLIB)
    parts = [flag.split("=") for flag in (fault and fault.flag, fast) if flag]
    added = ["--xla_cpu_experimental_ynn_fusion_type=" + ",".join(value for _, value in parts)] if parts else []
    assert flags.split()[0] == (file.read_text().strip() if parts else str(file))
    assert flags.split()[-1] == (added or [str(file)])[-1]


@known
def test_left_alone_the_fault_is_there_and_doctor_names_it():
    wrong, told, findings, flags, _ = run(NNFUNC_XLA_FLAGS="leave")
    fault = xla_flags.known_fault()
    assert fault is not None
    assert flags == ""
    assert wrong > 5000
    assert not told
    assert len(findings) == 1
    for part in (f"jaxlib {xla_flags.JAXLIB}", fault.description, fault.flag, "40,000 products"):
        assert part in findings[0]


@known
def test_too_late_it_warns_once_with_the_cure():
    wrong, told, findings, flags, _ = run("import jax; jax.devices()")
    fault = xla_flags.known_fault()
    assert fault is not None
    assert wrong > 5000
    assert findings
    assert flags == ""
    assert len(told) == 1
    assert f"set XLA_FLAGS={fault.flag}" in told[0]


@pytest.fixture
def jax_has_not_begun(monkeypatch):
    monkeypatch.setattr(xla_flags, "FAULTS", {xla_flags.JAXLIB: FAULT})
    monkeypatch.setattr(xla_flags, "FAST_CONVOLUTIONS", {})
    monkeypatch.setattr(xla_flags, "_backend_started", lambda: False)


@pytest.mark.parametrize(
    "before, after",
    [
        ("", "--xla_made_up=-some"),
        ("  ", "--xla_made_up=-some"),
        ("--xla_other=1", "--xla_other=1 --xla_made_up=-some"),
        ("--xla_made_up_too=1", "--xla_made_up_too=1 --xla_made_up=-some"),
        ("--not_xla_made_up=1", "--not_xla_made_up=1 --xla_made_up=-some"),
        ("--xla_made_up=-other", "--xla_made_up=-other --xla_made_up=-other,-some"),
        ("--xla_made_up=individual_x", "--xla_made_up=individual_x"),  # all that is on: XLA refuses to add "-some"
        ("--xla_made_up=all,-some", "--xla_made_up=all,-some"),
        ("--xla_other=1 -xla_made_up=", "--xla_other=1 -xla_made_up="),
        ("--xla_a=1 '--xla_made_up=+a'", "--xla_a=1 '--xla_made_up=+a' --xla_made_up=+a,-some"),
    ],
)
def test_flags_are_merged_with_the_users(jax_has_not_begun, monkeypatch, before, after):
    monkeypatch.setenv("XLA_FLAGS", before)
    for _ in range(2):
        xla_flags.set_flags()
        assert os.environ["XLA_FLAGS"] == after


@known
@pytest.mark.parametrize(
    "values, has_fault",
    [("dot", True), ("eltwise", True), ("individual_dot", False), ("-dot", False), ("+reduce", False)],
)
def test_xla_takes_the_flags_that_are_merged(values, has_fault):
    """The compiler's parser aborts the process where it refuses a list, such as "dot,-reduce".

    A list of all that is on stays as the user wrote it; where the fault is in it, nnfunc warns.
    """
    name = xla_flags.NO_REDUCE.partition("=")[0]
    wrong, told, findings, flags, _ = run(XLA_FLAGS=f"{name}={values}")
    assert (wrong > 0, len(told), bool(findings)) == (has_fault, has_fault, has_fault)
    assert flags.split()[0] == f"{name}={values}"
    assert not told or f"instead, such as {xla_flags.NO_REDUCE}." in told[0]


@pytest.mark.parametrize(
    "before, after",
    [
        ("", "--xla_made_up=-some,-slow"),
        ("--xla_other=1", "--xla_other=1 --xla_made_up=-some --xla_made_up=-some,-slow"),
        ("--xla_made_up=-other", "--xla_made_up=-other --xla_made_up=-other,-some"),  # the choice of the user
    ],
)
def test_fast_convolutions_are_set_where_the_user_chose_nothing(jax_has_not_begun, monkeypatch, before, after):
    monkeypatch.setattr(xla_flags, "FAST_CONVOLUTIONS", {xla_flags.JAXLIB: "--xla_made_up=-slow"})
    monkeypatch.setenv("XLA_FLAGS", before)
    xla_flags.set_flags()
    assert os.environ["XLA_FLAGS"].split()[-1] == after.split()[-1]
    assert xla_flags.is_set("--xla_made_up=-some")
    assert xla_flags.is_set("--xla_made_up=-slow") == after.endswith("-slow")


def test_versions_without_a_fault_are_left_alone(jax_has_not_begun, monkeypatch):
    monkeypatch.setattr(xla_flags, "FAULTS", {"0.0.1": FAULT})
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    xla_flags.set_flags()
    assert "XLA_FLAGS" not in os.environ


def test_a_file_that_cannot_be_read_is_left_to_xla(jax_has_not_begun, monkeypatch, tmp_path):
    monkeypatch.setenv("XLA_FLAGS", str(tmp_path / "missing"))
    xla_flags.set_flags()
    assert xla_flags.flags_in_force() == os.environ["XLA_FLAGS"] == str(tmp_path / "missing")


def test_whether_jax_has_begun():
    """A program of this process has run; one that has only imported JAX is in the tests above."""
    jax.block_until_ready(jax.numpy.zeros(()))
    before = jax.config.values["jax_num_cpu_devices"]
    assert xla_flags._backend_started()
    assert jax.config.values["jax_num_cpu_devices"] == before


def test_the_tests_run_on_a_cured_compiler():
    fault = xla_flags.known_fault()
    assert fault is None or fault.flag in os.environ["XLA_FLAGS"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        xla_flags.set_flags()
    assert compiler_checks.count_wrong_rows(jax.default_backend(), False) == {}
