"""State dicts of PyTorch's recurrent layers against the equations of its documentation, and against PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.published_weights import filled
from safetensors.numpy import load_file, save_file

import nnfunc as nf

IN, DIM, LAYERS = 3, 4, 2
GATES = {"lstm": 4, "gru": 3, "rnn": 1}
WIDTHS = {"lstm": DIM, "gru": DIM, "rnn": DIM, "lstm-projected": 2}
"""The width of the hidden values, which an LSTM may project."""
ENDS = {"": 0, "_reverse": 1}


def recurrent(case):
    width = {} if WIDTHS[case] == DIM else {"proj_dim": WIDTHS[case]}
    return getattr(nf, case[:4].rstrip("-"))(IN, DIM, layers=LAYERS, bidirectional=True, **width)


def state_dict(case):
    shapes, width = {}, WIDTHS[case]
    for layer in range(LAYERS):
        for end in ENDS:
            rows, wide = GATES[case.removesuffix("-projected")] * DIM, 2 * width if layer else IN
            sizes = {"weight_ih": (rows, wide), "weight_hh": (rows, width), "bias_ih": (rows,), "bias_hh": (rows,)}
            sizes |= {} if width == DIM else {"weight_hr": (width, DIM)}
            shapes |= {f"{part}_l{layer}{end}": shape for part, shape in sizes.items()}
    return {part: filled(part, shape) for part, shape in shapes.items()}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def step(name, pre, inner, h, c):
    """(h, c) after a step: the equations of torch.nn.LSTM, GRU and RNN; pre, inner: W x + b and U h + b'."""
    if name == "rnn":
        return np.tanh(pre + inner), c
    if name.startswith("lstm"):
        i, f, g, o = np.split(pre + inner, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c
    (r, z, n), (inner_r, inner_z, inner_n) = np.split(pre, 3), np.split(inner, 3)
    r, z = sigmoid(r + inner_r), sigmoid(z + inner_z)
    return (1 - z) * np.tanh(n + r * inner_n) + z * h, c


def reference(name, state, x):
    for layer in range(LAYERS):
        results = []
        for end, backward in ENDS.items():
            w, u, b, d = (state[f"{part}_l{layer}{end}"] for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
            project = state.get(f"weight_hr_l{layer}{end}", np.eye(DIM))
            h, c, outputs = np.zeros(len(project)), np.zeros(DIM), []
            for x_t in x[::-1] if backward else x:
                h, c = step(name, w @ x_t + b, u @ h + d, h, c)
                h = project @ h
                outputs.append(h)
            results.append(np.stack(outputs[::-1] if backward else outputs))
        x = np.concatenate(results, axis=-1)
    return x


@pytest.mark.parametrize("name", WIDTHS)
def test_recurrent_layers_compute_what_pytorch_computes(name, tmp_path):
    state = state_dict(name)
    arrays = {f"encoder.{part}": array.astype("f4") for part, array in state.items()}
    save_file(arrays | {"head.weight": np.ones((2, 2), "f4")}, tmp_path / "weights.safetensors")
    model, params = nf.pretrained(tmp_path / "weights.safetensors", model=recurrent(name), prefix="encoder.")
    x = filled("x", (5, IN))
    np.testing.assert_allclose(
        model.apply(params, jnp.asarray(x, jnp.float32)), reference(name, state, x), rtol=1e-4, atol=1e-5
    )
    written = load_file(nf.to_pretrained(model, params, tmp_path / "out") / "model.safetensors")
    assert {*written} == {*state}
    np.testing.assert_allclose(reference(name, written, x), reference(name, state, x), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
@pytest.mark.parametrize("name", WIDTHS)
def test_pytorch_loads_what_is_written(name, tmp_path, key):
    torch = pytest.importorskip("torch")
    model = recurrent(name)
    params = model.init(key)
    folder = nf.to_pretrained(model, params, tmp_path / "out")
    module = getattr(torch.nn, name.removesuffix("-projected").upper())
    options = {} if WIDTHS[name] == DIM else {"proj_size": WIDTHS[name]}
    layer = module(IN, DIM, num_layers=LAYERS, bidirectional=True, batch_first=True, **options)
    layer.load_state_dict({part: torch.tensor(x) for part, x in load_file(folder / "model.safetensors").items()})
    x = filled("x", (2, 5, IN)).astype("f4")
    y = layer(torch.tensor(x))[0]
    y.square().sum().backward()
    expected = y.detach().numpy()
    np.testing.assert_allclose(model.apply(params, x), expected, rtol=1e-4, atol=1e-5)
    grads = jax.grad(lambda params: jnp.sum(model.apply(params, x) ** 2))(params)
    (tmp_path / "grads").mkdir()
    back = load_file(nf.to_pretrained(model, grads, tmp_path / "grads") / "model.safetensors")
    for part, leaf in layer.named_parameters():
        if not part.startswith("bias_hh"):  # added to the other bias here
            np.testing.assert_allclose(back[part], leaf.grad, rtol=1e-3, atol=1e-4, err_msg=part)
    torch.save(layer.state_dict(), tmp_path / "weights.pt")
    _, again = nf.pretrained(tmp_path / "weights.pt", model=model)
    np.testing.assert_allclose(model.apply(again, x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning:torch")  # of its fast path, which these options do not take
@pytest.mark.parametrize("order", ["pre", "post"])
def test_the_transformer_of_pytorch_computes_the_same(order, tmp_path):
    """nn.Transformer, which ends with a norm in both orders, between tables of tokens."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    sizes = {"nhead": 2, "num_encoder_layers": 2, "num_decoder_layers": 1, "dim_feedforward": 12, "dropout": 0.0}
    module = torch.nn.Transformer(8, **sizes, norm_first=order == "pre", batch_first=True)
    module.tokens = torch.nn.Embedding(13, 8)
    torch.save(module.state_dict(), tmp_path / "weights.pt")
    options = {"layers": 2, "decoder_layers": 1, "heads": 2, "hidden": 12}
    model = nf.seq2seq(13, dim=8, **options, order=order, final_norm=True, block_size=6, embedding_scale=1.0)
    unfilled = "*/positions/weight"  # tables of zeros, so that the input is that of nn.Transformer
    model, params = nf.pretrained(tmp_path / "weights.pt", model=model, unfilled=unfilled, key=jax.random.key(0))
    positions = {name: {"positions": jax.tree.map(jnp.zeros_like, params[name]["positions"])} for name in params}
    params = {name: params[name] | positions[name] for name in params}
    source, target = (np.random.default_rng(i).integers(0, 13, (2, size)) for i, size in enumerate((6, 5)))
    mask = np.array([[1] * 4 + [0] * 2, [1] * 6], bool)
    later = torch.ones(5, 5, dtype=torch.bool).triu(1)
    padding = {"src_key_padding_mask": torch.tensor(~mask), "memory_key_padding_mask": torch.tensor(~mask)}
    y = module(*(module.tokens(torch.tensor(ids)) for ids in (source, target)), tgt_mask=later, **padding)
    expected = y @ module.tokens.weight.T
    expected.square().mean().backward()
    norm = float(sum(leaf.grad.square().sum() for leaf in module.parameters()).sqrt())
    x = nf.Seq2SeqInput(source, target, source_mask=mask)
    np.testing.assert_allclose(model.apply(params, x), expected.detach().numpy(), rtol=1e-4, atol=1e-5)
    grads = nf.paths.flatten(jax.grad(lambda params: jnp.mean(model.apply(params, x) ** 2))(params))
    squares = [jnp.sum(leaf**2) for path, leaf in grads.items() if "positions" not in path]
    assert float(jnp.sqrt(sum(squares))) == pytest.approx(norm, rel=1e-4)


def test_the_transformer_of_pytorch_ends_with_norms(tmp_path, key):
    """Also where the norms follow the branches; the names are those of nn.Transformer."""
    model = nf.seq2seq(9, dim=4, layers=1, heads=2, hidden=4, final_norm=True)
    params = model.init(key)
    folder = nf.to_pretrained(model, params, tmp_path / "out", family="torch-transformer")
    names = {*load_file(folder / "model.safetensors")}
    assert {"tokens.weight", "encoder.norm.weight", "encoder.norm.bias", "decoder.norm.weight"} <= names
    assert "encoder.layers.0.self_attn.in_proj_weight" in names
    _, again = nf.pretrained(folder, model=model)
    jax.tree.map(np.testing.assert_array_equal, again, params)


@pytest.mark.slow
def test_pickled_code_is_not_run(tmp_path):
    torch = pytest.importorskip("torch")

    class Evil:
        def __reduce__(self):
            return (tmp_path / "ran").touch, ()

    for state in ({"weight_ih_l0": Evil()}, torch.nn.LSTM(2, 3)):
        torch.save(state, tmp_path / "weights.pt")
        refusal = (
            r"PyTorch's weights_only loader refuses it \(Unsupported global: GLOBAL \S+\). Only a dictionary of ten"
        )
        with pytest.raises(ValueError, match=refusal):
            nf.pretrained(tmp_path / "weights.pt", model=nf.lstm(2, 3))
    assert not (tmp_path / "ran").exists()
    for content in (b"", b"hello world"):
        (tmp_path / "weights.pt").write_bytes(content)
        with pytest.raises(ValueError, match=r"weights_only loader refuses it \((EOFError|KeyError: 101)\)"):
            nf.pretrained(tmp_path / "weights.pt", model=nf.lstm(2, 3))
