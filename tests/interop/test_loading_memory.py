"""What loading takes: the memory of the parameters and little more, whatever the number of files."""

import json
import subprocess
import sys

import jax
import pytest
from helpers.project import ROOT
from safetensors.numpy import load_file

import nnfunc as nf

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")]

MEASURE = """
import json, sys
import jax
import nnfunc as nf
nf.pretrained, jax.block_until_ready(jax.numpy.ones(3))
if sys.argv[1].endswith("bin"):
    import torch

def megabytes(name):
    lines = dict(line.split(":") for line in open("/proc/self/status") if ":" in line)
    return int(lines[name].split()[0]) / 1e3

before = megabytes("VmRSS")
params = jax.block_until_ready(nf.pretrained(sys.argv[1]).params)
print(json.dumps([megabytes("VmHWM") - before, sum(leaf.nbytes for leaf in jax.tree.leaves(params)) / 1e6]))
"""


def pickle_shards(folder):
    """The same files as PyTorch's, with their index."""
    torch = pytest.importorskip("torch")
    index = folder / "model.safetensors.index.json"
    for file in folder.glob("*.safetensors"):
        tensors = {name: torch.tensor(array) for name, array in load_file(file).items()}
        torch.save(tensors, folder / f"{file.stem}.bin")
        file.unlink()
    (folder / "pytorch_model.bin.index.json").write_text(index.read_text().replace(".safetensors", ".bin"))
    index.unlink()


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_loading_takes_the_parameters_and_one_shard(ending, tmp_path, key):
    model = nf.llama(8000, dim=512, layers=12, heads=8, hidden=1536)
    nf.to_pretrained(model, jax.jit(model.init)(key), tmp_path / ending, shard_bytes=60_000_000)
    if ending == "bin":
        pickle_shards(tmp_path / ending)
    assert len([*(tmp_path / ending).glob(f"*.{ending}")]) > 2
    command = [sys.executable, "-c", MEASURE, str(tmp_path / ending)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    peak, params = json.loads(result.stdout)
    assert params == pytest.approx(200, rel=0.1)
    assert peak < params + 60 + 60  # of the program itself: compiled code, caches
