"""A train state that an earlier commit saved is loaded, computes the same, and trains on.

tests/golden/checkpoint was written at commit 0f228ee, before the files and names of the package moved: three
steps of `nf.trainer(build)` from key 0 on the batch below, saved with `nf.checkpoint.save`. checkpoint_logits.npy
holds what that commit's `apply` made of the batch.
"""

import jax
import jax.numpy as jnp
import numpy as np
from helpers.project import GOLDEN

import nnfunc as nf

X, Y = jax.random.normal(jax.random.key(1), (16, 6)), jnp.arange(16) % 3
HYPERS = {"lr": 0.01}


def build(h):
    model = nf.serial(
        stem=nf.linear(6, 8),
        norm=nf.batch_norm(8),
        act=jax.nn.relu,
        drop=nf.dropout(0.2),
        blocks=nf.repeat(nf.residual(nf.serial(norm=nf.layer_norm(8), feed=nf.feed_forward(8, 12))), 2),
        head=nf.linear(8, 3),
    )
    return nf.Task(model, nf.classification(), nf.optimizers.adamw(h["lr"], weight_decay=0.01))


def test_a_checkpoint_of_an_earlier_commit_is_loaded():
    trainer = nf.trainer(build)
    like = jax.eval_shape(trainer.init, HYPERS, jax.random.key(0))
    state = nf.checkpoint.load(GOLDEN / "checkpoint", like)
    logits = build(HYPERS).model.apply(state.params, X, state=state.model_state)
    np.testing.assert_allclose(logits, np.load(GOLDEN / "checkpoint_logits.npy"), rtol=1e-5, atol=1e-6)
    assert int(jax.jit(trainer.step)(HYPERS, state, (X, Y))[0].step) == 4
