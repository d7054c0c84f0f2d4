"""The compiled step of each preset has the collectives that theory says, and no other.

An accidental replication, or a value that moves between devices, fails here.
"""

from collections import Counter
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

import nnfunc as nf
from nnfunc.base import Context
from nnfunc.distributed.collectives import collective_bytes, collectives
from nnfunc.distributed.placement import Placement

LAYERS, DIM, BATCH, TIME = 2, 8, 4, 4
SCALARS = 400
"""Bytes: losses, norms and checks for finite values."""


def gpt(**options):
    return nf.gpt(12, block_size=TIME, layers=LAYERS, heads=2, dim=DIM, **options)


def step_collectives(model, mesh, shard):
    build = lambda h: nf.Task(model, nf.language_modelling(), nf.optimizers.adamw(h))
    init, step = nf.trainer(build, mesh=mesh, shard=shard)
    state = jax.eval_shape(init, jnp.float32(0.1), jax.random.key(0))
    state = Placement.of("test", mesh, shard).structs(state, model)
    batch = 2 * (jax.ShapeDtypeStruct((BATCH, TIME), jnp.int32),)
    program = jax.jit(step, donate_argnums=1).lower(jnp.float32(0.1), state, batch).compile()
    large = [part for part in collectives(program) if part.bytes > SCALARS / 4]
    return program, large, sum(4 * leaf.size for leaf in jax.tree.leaves(state.params))


HLO = """ENTRY %main (a: f32[2,4], b: f32[8]) -> f32[8,4] {
  %a = f32[2,4]{1,0} parameter(0)
  %b = f32[8]{0} parameter(1)
  %gather = ((f32[2,4]{1,0}, f32[8]{0}), (f32[8,4]{1,0}, f32[32]{0})) all-gather-start(%a, %b), replica_groups={{0,1,2,3}}
  %sum = (f32[2,4]{1,0}, f32[8]{0}) all-reduce-start(%a, %b), replica_groups={{0,1}}, to_apply=%add
  %move = (f32[8]{0}, f32[8]{0}, u32[], u32[]) collective-permute-start(%b), source_target_pairs={{0,1},{1,0}}
}"""


def test_the_bytes_of_operations_that_only_start():
    program = SimpleNamespace(as_text=lambda: HLO)
    expected = {"all-gather": 4 * (32 + 32), "all-reduce": 4 * (8 + 8), "collective-permute": 4 * 8}
    assert {part.operation: part.bytes for part in collectives(program)} == expected


def test_data_parallel_sums_the_gradients_once():
    _, parts, params = step_collectives(gpt(), nf.mesh(data=4), None)
    assert {part.operation for part in parts} == {"all-reduce"}
    tied = 12 * DIM * 4  # the table of tokens has a gradient as embedding and as head
    assert params <= collective_bytes(parts)["all-reduce"] <= params + tied + SCALARS


def test_fsdp_gathers_weights_twice_and_scatters_gradients():
    replicated, _, params = step_collectives(gpt(), nf.mesh(data=4), None)
    program, parts, _ = step_collectives(gpt(), nf.mesh(data=4), "fsdp")
    totals = collective_bytes(parts)
    model = gpt().init(jax.random.key(0))
    matrices = sum(4 * leaf.size for path, leaf in nf.paths.flatten(model).items() if path.endswith("/weight"))
    positions = 4 * TIME * DIM  # added to the input, so that its gradient does not need it again
    assert set(totals) <= {"all-gather", "reduce-scatter", "all-reduce"}
    assert totals["all-gather"] == 2 * matrices - positions
    assert totals["reduce-scatter"] >= matrices
    assert totals["all-reduce"] < params - matrices + SCALARS
    arguments, whole = (p.memory_analysis().argument_size_in_bytes for p in (program, replicated))
    assert arguments < whole / 2


def test_fsdp_gathers_and_scatters_in_bfloat16():
    _, parts, _ = step_collectives(gpt(), nf.mesh(data=4), "fsdp")
    program, half, params = step_collectives(nf.precision(gpt()), nf.mesh(data=4), "fsdp")
    totals, halves = collective_bytes(parts), collective_bytes(half)
    if jax.__version_info__ >= (0, 11):  # it sums the gradients of a table before they are bfloat16 again
        halves["reduce-scatter"] -= 12 * DIM * 2
    for operation in ("all-gather", "reduce-scatter"):
        assert 0.45 < halves[operation] / totals[operation] <= 0.5
    state = 4 * 3 * params / 4  # parameters and the moments of Adam stay in float32, each device has a quarter
    assert program.memory_analysis().argument_size_in_bytes > state / 4


def test_the_router_of_experts_is_gathered_in_float32():
    model = nf.mixture_of_experts(DIM, 16, 4)
    partition = Placement.of("test", nf.mesh(data=4), "fsdp").partition(model)
    gather = lambda params: partition.gather(params, Context(compute=jnp.bfloat16), model.full_precision)
    shapes = jax.eval_shape(gather, model.init(jax.random.key(0)))
    assert shapes["router"]["weight"].dtype == jnp.float32
    assert shapes["up"]["weight"].dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("model", "shard"),
    [
        (nf.batch_norm(DIM), {"scale": ["data"]}),
        (nf.instance_norm(DIM, running_stats=True), {"scale": ["data"]}),
        (nf.weight_norm(nf.linear(DIM, 8)), "fsdp"),
        (nf.spectral_norm(nf.linear(DIM, 8)), "fsdp"),
        (nf.lora(nf.linear(DIM, 8), nf.linear(DIM, 8).init(jax.random.key(0)), "weight", rank=4), "fsdp"),
    ],
    ids=["batch_norm", "instance_norm", "weight_norm", "spectral_norm", "lora"],
)
def test_what_a_layer_does_not_cast_is_gathered_in_float32(model, shard):
    partition = Placement.of("test", nf.mesh(data=4), shard).partition(model)
    gather = lambda params: partition.gather(params, Context(compute=jnp.bfloat16), model.full_precision)
    leaves = nf.paths.flatten(jax.eval_shape(gather, model.init(jax.random.key(0))))
    assert {leaf.dtype for path, leaf in leaves.items() if path != "bias"} == {jnp.dtype(jnp.float32)}


def test_remat_saves_memory_under_fsdp_too():
    def step(wrap):
        model = wrap(nf.gpt(12, block_size=TIME, layers=8, heads=2, dim=DIM))
        program, parts, _ = step_collectives(model, nf.mesh(data=4), "fsdp")
        return program.memory_analysis().temp_size_in_bytes, collective_bytes(parts)["all-gather"]

    (stored, gathered), (recomputed, gathered_again) = step(lambda model: model), step(nf.remat_repeats)
    assert recomputed < 0.7 * stored
    assert gathered_again == gathered  # once forward, once backward


def test_tensor_parallel_sums_activations_twice_a_block():
    _, parts, _ = step_collectives(gpt(), nf.mesh(model=2), "tensor")
    assert {part.operation for part in parts} == {"all-reduce"}
    activations = [part for part in parts if part.bytes == BATCH * TIME * DIM * 4]
    assert [part.count for part in activations] == 4 * [LAYERS]
    assert all(part.bytes < SCALARS for part in parts if part not in activations)


def test_sequence_parallel_gathers_and_scatters_instead():
    _, parts, _ = step_collectives(gpt(), nf.mesh(model=2), "tensor+sequence")
    activations = Counter(
        part.operation for part in parts if part.bytes == BATCH * TIME * DIM * 4 and part.count == LAYERS
    )
    assert activations == {"all-gather": 4, "reduce-scatter": 4}


def test_positions_that_the_devices_do_not_divide_are_told():
    init, step = nf.trainer(
        lambda h: nf.Task(gpt(), nf.language_modelling(), nf.optimizers.adamw(h)),
        mesh=nf.mesh(model=2),
        shard="tensor+sequence",
    )
    state = jax.eval_shape(init, jnp.float32(0.1), jax.random.key(0))
    batch = 2 * (jax.ShapeDtypeStruct((BATCH, TIME - 1), jnp.int32),)
    message = f"sequence: the 2 devices of the mesh axis 'model' do not divide {TIME - 1} positions, so the values"
    with pytest.warns(UserWarning, match=message):
        jax.eval_shape(step, jnp.float32(0.1), state, batch)


def test_experts_are_summed_once_a_block_and_direction():
    model = gpt(mlp=nf.mixture_of_experts(DIM, 16, 4))
    _, parts, _ = step_collectives(model, nf.mesh(model=2), "expert")
    assert {part.operation for part in parts} == {"all-reduce"}
    assert [part.count for part in parts if "mlp" in part.name] == 2 * [LAYERS]


@pytest.mark.parametrize("shard", [None, "fsdp"])
def test_on_one_device_the_mesh_costs_nothing(shard):
    text = {}
    for mesh in (None, nf.mesh(data=1)):
        build = lambda h: nf.Task(gpt(), nf.language_modelling(), nf.optimizers.adamw(h))
        init, step = nf.trainer(build, mesh=mesh, shard=shard if mesh else None)
        state = jax.eval_shape(init, jnp.float32(0.1), jax.random.key(0))
        batch = 2 * (jax.ShapeDtypeStruct((BATCH, TIME), jnp.int32),)
        program = jax.jit(step, donate_argnums=1).lower(jnp.float32(0.1), state, batch).compile()
        lines = [line.split(" = ") for line in program.as_text().splitlines() if line.lstrip(" ROT").startswith("%")]
        text[mesh is None] = Counter(parts[1].split("(")[0] for parts in lines if len(parts) > 1)
    assert text[True] == text[False]
