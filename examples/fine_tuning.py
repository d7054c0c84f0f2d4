"""Fine-tuning: a new task is learned from fifty images, from what a network knows of another one.

    python examples/fine_tuning.py

A deep network is trained to tell ten digits apart, and then, on 50 images, to name the pair (0 or 1, 2 or 3, ...) in
three ways: from new parameters; from the trained ones with a new head, where lower layers have lower rates; and with
low-rank adapters, where the head alone is trained in full.
Measured (2 CPU cores, 2026-11-29): test accuracy 0.731, 0.894 and 0.878, of 21,765, 21,765 and 2,373 parameters.
Source: Howard and Ruder 2018, arXiv:1801.06146, section 3.2 (rates by layer); Hu et al. 2021, arXiv:2106.09685 (LoRA).
"""

import jax
import jax.numpy as jnp

import nnfunc as nf

DEPTH = 4


def network(classes):
    block = nf.residual(nf.serial(norm=nf.layer_norm(64), up=nf.linear(64, 64), act=jax.nn.gelu))
    return nf.serial(
        stem=nf.linear(64, 64), blocks=nf.repeat(block, DEPTH), norm=nf.layer_norm(64), head=nf.linear(64, classes)
    )


def main(steps=300):
    (x, y), _, (test_x, test_y) = nf.data.digits()[:3]
    ten, objective, adamw = network(10), nf.classification(), nf.optimizers.adamw(1e-3)
    data = nf.data.arrays((x, y), batch_size=64)
    trained, _ = nf.train(lambda h: nf.Task(ten, objective, adamw), {}, data, steps=steps, key=jax.random.key(0))

    few, test = nf.data.arrays((x[:50], y[:50] // 2), batch_size=25), (test_x, test_y // 2)
    model = network(5)
    params, report = nf.starting_from(model.init(jax.random.key(1)), trained.params, skip="head/**")
    falling = {"stem/**": 0.8**DEPTH, "blocks/**": 0.8 ** jnp.arange(DEPTH, 0, -1.0)}
    lora = nf.lora(model, params, "blocks/**/weight", rank=4, train="head/**")
    tasks = {
        "new": (nf.Task(model, objective, adamw), None),
        "rates": (nf.Task(model, objective, nf.optimizers.groups(adamw, rates=falling)), params),
        "adapters": (nf.Task(lora, objective, adamw), None),
    }
    accuracy, sizes = {}, {}
    for name, (task, start) in tasks.items():
        start = {} if start is None else {"params": start}
        state, _ = nf.train(lambda h, task=task: task, {}, few, steps=steps, key=jax.random.key(2), **start)
        accuracy[name] = nf.evaluate(task, state, test)["accuracy"]
        sizes[name] = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    return {"accuracy": accuracy, "parameters": sizes, "report": report}


if __name__ == "__main__":
    numbers = main()
    print(numbers["report"])
    for name, accuracy in numbers["accuracy"].items():
        print(f"{name:<9}{accuracy:.3f} accuracy, {numbers['parameters'][name]:,} trained parameters")
