"""Compare models as a config says: the same as `nnfunc compare`, for use from Python.

    python scripts/compare.py                                    # configs/compare_mnist.toml
    python scripts/compare.py my.toml seeds=[0] --run runs/mine

Tables and plots go to the folder; the same command goes on with a folder that was stopped half-way.
"""

import argparse
from pathlib import Path

from nnfunc.commands.compare import compare
from nnfunc.commands.process_setup import set_up_process

CONFIG = Path(__file__).parents[1] / "configs" / "compare_mnist.toml"


def main():
    parser = argparse.ArgumentParser(description="Compare models as a config says.")
    parser.add_argument("config", nargs="?", type=Path, default=CONFIG)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="such as seeds=[0,1]")
    parser.add_argument("--run", type=Path, help="the folder; by default the next of runs/NAME-1, ...")
    args = parser.parse_args()
    set_up_process()  # before the first computation
    compare(args.config, args.settings, args.run)


if __name__ == "__main__":
    main()
