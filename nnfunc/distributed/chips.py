"""Accelerators: their peak rates, and the time that a step takes at least on them."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from nnfunc import check
from nnfunc.distributed.collectives import Collective


class Chip(NamedTuple):
    """One device of a cluster, with rates that no program exceeds.

    bfloat16, float32: FLOP/s of dense matrix products, of float32 at JAX's default precision: TF32 on a GPU, one
        pass of bfloat16 on a TPU.
    memory: bytes.
    bandwidth: bytes/s of the memory.
    link: bytes/s that the device sends to others of its node.
    network: bytes/s that it sends to other nodes.
    node: devices with direct links; of a TPU those of a pod.
    source: of the values.
    """

    bfloat16: float
    float32: float
    memory: float
    bandwidth: float
    link: float
    network: float
    node: int
    source: str


CHIPS = {
    "a100": Chip(
        312e12, 156e12, 80e9, 2039e9, 300e9, 25e9, 8,
        "NVIDIA A100 datasheet, SXM 80 GB; DGX A100 datasheet, 8 adapters of 200 Gb/s",
    ),
    "h100": Chip(
        989.4e12, 494.7e12, 80e9, 3350e9, 450e9, 50e9, 8,
        "NVIDIA H100 datasheet, SXM, without sparsity; DGX H100 datasheet, 8 adapters of 400 Gb/s",
    ),
    "h200": Chip(
        989.4e12, 494.7e12, 141e9, 4800e9, 450e9, 50e9, 8,
        "NVIDIA H200 datasheet, SXM, without sparsity; DGX H200 datasheet, 8 adapters of 400 Gb/s",
    ),
    "b200": Chip(
        2250e12, 1100e12, 180e9, 8000e9, 900e9, 50e9, 8,
        "NVIDIA HGX B200 datasheet, without sparsity; DGX B200 datasheet, 1,440 GB and 64 TB/s for 8, 400 Gb/s each",
    ),
    "tpu-v5p": Chip(
        459e12, 459e12, 95e9, 2765e9, 600e9, 6.25e9, 8960,
        "Google Cloud, TPU v5p: 1,200 GB/s in both directions of the ICI, 50 Gb/s of the data center network a chip",
    ),
    "tpu-v6e": Chip(
        918e12, 918e12, 32e9, 1638e9, 400e9, 12.5e9, 256,
        "Google Cloud, TPU v6e: 800 GB/s in both directions of the ICI, 4 adapters of 200 Gb/s for 8 chips",
    ),
}  # fmt: skip  # the numbers of a chip stand in one line
"""The chips by name."""


class Bounds(NamedTuple):
    """The seconds that a step takes at least: for its arithmetic, its memory and its links."""

    compute: float
    memory: float
    links: float


def find_chip(name: str) -> Chip:
    """The chip of a name.

    name: of CHIPS.
    Raises: ValueError with the nearest name.

    >>> find_chip("h100").node
    8
    """
    check.choice("plan", CHIPS, chip=name)
    return CHIPS[name]


def bounds(chip: Chip, flops: Mapping[str, float], traffic: float, parts: Iterable[Collective]) -> Bounds:
    """The seconds that a step takes at least on each device.

    chip: of CHIPS.
    flops: of a device, by the dtype "bfloat16" or "float32".
    traffic: bytes that a device reads and writes.
    parts: the collectives of a step.
    """
    compute = sum(count / getattr(chip, dtype) for dtype, count in flops.items())
    return Bounds(compute, traffic / chip.bandwidth, sum(link_seconds(chip, part) for part in parts))


def link_seconds(chip: Chip, part: Collective) -> float:
    """The seconds that a collective takes at least in one step, if all links are used all the time.

    Of n devices on m nodes, k = n / m on each, a device sends (k - 1) / k of the bytes of an all-gather or a
    reduce-scatter to its node, and the k devices of a node together (m - 1) / m to other nodes; both at once. An
    all-reduce is a reduce-scatter and an all-gather. Reductions inside a switch are not considered.
    Consecutive positions in the mesh are on one node.
    chip: of CHIPS.
    part: of `collectives`.
    Source: Thakur, Rabenseifner and Gropp 2005, doi:10.1177/1094342005051521, section 4.

    >>> part = Collective("all-reduce", 8e9, 2, 1, "", (0, 1))
    >>> round(link_seconds(CHIPS["h100"], part), 4)       # each of the two sends 8 GB over 450 GB/s
    0.0178
    """
    size = len(part.group)
    if size < 2:
        return 0.0
    nodes = [position // chip.node for position in part.group]
    here, groups = nodes.count(nodes[0]), len(set(nodes))
    if part.operation == "collective-permute":
        inside, between = (part.bytes, 0) if groups == 1 else (0, part.bytes)
    elif part.operation == "all-to-all":
        inside, between = part.bytes * (here - 1) / size, part.bytes * (size - here) / size
    else:
        total = part.bytes * (2 if part.operation == "all-reduce" else 1)
        inside, between = total * (here - 1) / here, total * (groups - 1) / groups / here
    return part.count * max(inside / chip.link, between / chip.network)
