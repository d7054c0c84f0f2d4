"""What the train steps compile to, as tests/golden/hlo.json keeps it, and the comparison."""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import jax

from nnfunc import flops as count_flops

from . import cases, hlo

FILE = Path(__file__).resolve().parents[2] / "tests" / "golden" / "hlo.json"
CASES = {name: cases.CASES[name] for name in ("mlp", "cnn", "lstm", "gpt")}
DEPTHS = {f"gpt of {n}": partial(cases.gpt, n, unroll=1) for n in (4, 8)}
RENEW = "If that is meant, renew them: python scripts/bench.py --freeze"

ESTIMATES = {"temporary_bytes": 1.1}
"""The compiler's own estimate may be so much higher; numbers of instructions not at all."""
UNKNOWN = 1.15
"""So much more is let pass, of everything, for a version of jax or a machine that was not measured."""


def of(make: Any) -> dict[str, int]:
    """The figures of the step of nnfunc's trainer for a case. No array is made."""
    case = make()
    side, batch = cases.trained(case), case.batch()
    state = jax.eval_shape(side.init)
    compiled = side.step.lower(state, batch).compile()
    return hlo.figures(compiled) | {"flops": count_flops.count(side.step, state, batch)}


def known() -> dict[str, Any]:
    return json.loads(FILE.read_text()) if FILE.exists() else {}


def nearest(golden: dict[str, Any], platform: str, version: str) -> tuple[str, str] | None:
    """Which (platform, version) to compare with: this one, else the same kind of device, else None."""
    near = [name for name in golden if name.split("-")[0] == platform.split("-")[0]]
    platform = platform if platform in golden else (near or [""])[0]
    versions = golden.get(platform, {})
    if not versions:
        return None
    own = _number(version)
    return platform, min(versions, key=lambda v: (abs(_number(v) - own), v))


def _number(version: str) -> int:
    major, minor = re.findall(r"\d+", version)[:2]
    return 1000 * int(major) + int(minor)


def too_many(now: dict[str, int], kept: dict[str, int], exact: bool) -> list[str]:
    """What grew, in words: `dot 12, was 10`."""
    grown = []
    for name in sorted({*now, *kept}):
        room = ESTIMATES.get(name, 1.0) if exact else UNKNOWN
        value, most = now.get(name, 0), kept.get(name, 0)
        slack = 0 if exact else 3
        if value > most * room + slack:
            grown.append(f"{name} {value}, was {most}")
    return grown


def renew() -> None:
    """Measure again and write; other platforms and versions keep what they have."""
    golden = known()
    platform, version = hlo.where()
    golden.setdefault(platform, {})[version] = {name: of(make) for name, make in CASES.items()}
    FILE.write_text(json.dumps(golden, indent=1, sort_keys=True) + "\n")
    for name, figures in golden[platform][version].items():
        print(name, figures)
    print(f"wrote {FILE.name}: {platform}, jax {version}")
