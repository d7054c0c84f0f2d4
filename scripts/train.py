"""Train a classifier on handwritten digits: the whole program, to be copied and changed.

    python scripts/train.py                        # the defaults
    python scripts/train.py --lr 1e-2 --steps 500

Everything the library does here can be replaced by a function of your own.
"""

import argparse

import jax

import nnfunc as nf


def build(h):
    """Everything that learns. h holds numbers, which may be traced: never branch on them."""
    model = nf.mlp([64, 128, 10], dropout=h["dropout"])  # any (init, apply) pair will do
    rate = nf.schedules.warmup_cosine(h["lr"], warmup_steps=50, total_steps=h["steps"])
    optimizer = nf.optimizers.adamw(rate, weight_decay=h["decay"])  # any optax chain will do
    return nf.Task(model, nf.classification(), optimizer)


def main():
    parser = argparse.ArgumentParser(description="Train a classifier on digits.")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--decay", type=float, default=1e-2)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    digits = nf.data.digits()  # 1,797 images of 8x8, shipped with scikit-learn
    data = nf.data.arrays(digits.train, batch_size=64, validation=digits.validation, seed=args.seed)
    hypers = {"lr": args.lr, "dropout": args.dropout, "decay": args.decay, "steps": args.steps}

    def show(report):
        if report.validation:
            loss, accuracy = report.validation["loss"], report.validation["accuracy"]
            print(f"step {report.step:5d}  validation loss {loss:.4f}  accuracy {accuracy:.2%}")

    state, _ = nf.train(build, hypers, data, steps=args.steps, key=jax.random.key(args.seed), on_report=show)

    # The test split is looked at once, at the very end.
    figures = nf.evaluate(build(hypers), state, digits.test)
    print(f"test accuracy {figures['accuracy']:.2%}")


if __name__ == "__main__":
    main()
