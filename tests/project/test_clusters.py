"""The files for clusters are complete: their syntax, required fields, and names that refer to each other."""

import os
import re
import subprocess

import pytest
from helpers.project import ROOT

from nnfunc.distributed import processes

FOLDER = ROOT / "docs" / "clusters"
PODS = {"nnfunc-{}.nnfunc": "kubernetes-job.yaml", "nnfunc-train-0-{}.nnfunc": "jobset.yaml"}
"""The names of the pods by index: JOB-INDEX.SUBDOMAIN, of a JobSet SET-JOB-REPLICA-INDEX.SUBDOMAIN."""


def documents(name):
    yaml = pytest.importorskip("yaml")
    return {one["kind"]: one for one in yaml.safe_load_all((FOLDER / name).read_text())}


def job_of(name):
    read = documents(name)
    return read["Job"]["spec"] if "Job" in read else read["JobSet"]["spec"]["replicatedJobs"][0]["template"]["spec"]


def run_script(tmp_path, *arguments, **environment):
    """slurm.sh with an srun that prints its arguments."""
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/sh\necho "$@"\n')
    srun.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    values = {"PATH": path, "HOME": str(tmp_path), "SLURM_JOB_ID": "7"} | environment
    command = ["bash", FOLDER / "slurm.sh", *arguments]
    return subprocess.run(command, env=values, cwd=tmp_path, capture_output=True, text=True)


def test_the_slurm_script_has_no_syntax_error():
    subprocess.run(["bash", "-n", FOLDER / "slurm.sh"], check=True)


def test_the_slurm_script_trains_and_then_resumes(tmp_path):
    first = run_script(tmp_path, "c.toml", "seed=3")
    folder = tmp_path / "runs" / "slurm-7"
    assert first.stdout == f"--kill-on-bad-exit=1 nnfunc train c.toml --run {folder} seed=3 mesh.data=-1\n", (
        first.stderr
    )
    folder.mkdir(parents=True)
    (folder / "config.toml").touch()
    assert run_script(tmp_path, "c.toml").stdout == f"--kill-on-bad-exit=1 nnfunc resume {folder}\n"
    assert "usage: sbatch" in run_script(tmp_path).stderr


def test_the_slurm_options_are_whole_before_the_first_command():
    head, _, rest = (FOLDER / "slurm.sh").read_text().partition("set -euo pipefail")
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)=(\S+)$", head, re.MULTILINE))
    assert {"nodes", "ntasks-per-node", "gpus-per-node", "time", "signal"} <= set(options)
    assert options["ntasks-per-node"] == options["gpus-per-node"]  # one process a GPU
    assert "#SBATCH" not in rest


def test_the_service_is_headless_and_selects_the_job():
    read = documents("kubernetes-job.yaml")
    service, job = read["Service"], read["Job"]
    assert (service["apiVersion"], job["apiVersion"]) == ("v1", "batch/v1")
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert job["spec"]["template"]["spec"]["subdomain"] == service["metadata"]["name"]


def test_the_jobset_has_the_required_fields():
    one = documents("jobset.yaml")["JobSet"]
    assert one["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    (job,) = one["spec"]["replicatedJobs"]
    assert f"{one['metadata']['name']}-{job['name']}-0-{{}}.{one['spec']['network']['subdomain']}" in PODS
    assert job["replicas"] == 1
    assert one["spec"]["network"]["enableDNSHostnames"]


@pytest.mark.parametrize("name", PODS.values())
def test_the_manifests_have_the_fields_of_kubernetes(name):
    """With `pip install kubernetes-validate`. It does not know JobSet, of which it reads the Job inside."""
    schema = pytest.importorskip("kubernetes_validate")
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "nnfunc"}, "spec": job_of(name)}
    for one in (job, *(one for one in documents(name).values() if one["kind"] != "JobSet")):
        schema.validate(one, "1.33", strict=True)
    job["spec"]["completionmode"] = "Indexed"
    with pytest.raises(schema.ValidationError, match="completionmode"):
        schema.validate(job, "1.33", strict=True)


@pytest.mark.parametrize(("pod", "name"), PODS.items())
def test_the_pods_start_the_processes_of_one_run(pod, name):
    job = job_of(name)
    assert job["completionMode"] == "Indexed"
    assert job["completions"] == job["parallelism"]
    spec = job["template"]["spec"]
    assert spec["restartPolicy"] in ("Never", "OnFailure")  # all that a job allows
    (container,) = spec["containers"]
    assert {"name", "image", "command", "args"} <= set(container)
    variables = {one["name"]: one.get("value") or one["valueFrom"] for one in container["env"]}
    index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    assert variables["NNFUNC_PROCESS"] == {"fieldRef": {"fieldPath": index}}
    assert variables["NNFUNC_PROCESSES"] == str(job["completions"])
    port = container["ports"][0]["containerPort"]
    assert variables["NNFUNC_COORDINATOR"] == f"{pod.format(0)}:{port}"
    volumes = {one["name"] for one in spec["volumes"]}
    assert {one["name"] for one in container["volumeMounts"]} == volumes
    script = container["args"][0]
    subprocess.run(["sh", "-n", "-c", script], check=True)
    assert pod.format("$i") in script
    assert f"for i in {' '.join(map(str, range(job['completions'])))};" in script


@pytest.mark.parametrize("name", PODS.values())
def test_the_variables_of_a_pod_are_those_that_are_read(name, monkeypatch):
    joined = {}
    monkeypatch.setattr(processes, "_initialize", lambda arguments, address: joined.update(arguments))
    monkeypatch.setattr(processes, "_wait_for_coordinator", lambda address: None)
    (container,) = job_of(name)["template"]["spec"]["containers"]
    for one in container["env"]:
        monkeypatch.setenv(one["name"], one.get("value", "2"))  # the pod of index 2
    processes.start()
    assert joined["process_id"] == 2
    assert joined["num_processes"] == job_of(name)["completions"]
