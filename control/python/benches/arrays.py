"""Arrays put and got, beside `numpy.copyto` of the same bytes in the same rounds.

    python control/python/benches/arrays.py [--rounds 9] [--sizes 8MiB,1GiB] [--durable]

It runs the node that SHOAL_BINARY names, with memory for three arrays, taken from the machine beforehand. Each round copies,
puts and gets once, in turn; shown are the medians, and the least, median and largest ratio to the copy of the round. A get that
copies nothing has its pages to fault in: `get, sum` also reads every byte, as `copy, sum` does of its copy.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from node import Node  # noqa: E402

import shoal  # noqa: E402


def seconds(work: Callable[[], object]) -> float:
    gc.collect()
    start = time.perf_counter()
    result = work()
    took = time.perf_counter() - start
    del result
    return took


def rounds(client: shoal.Client, size: int, count: int, volatile: bool) -> dict[str, list[float]]:
    source = np.random.default_rng(1).integers(0, 256, size, np.uint8)
    target = np.zeros_like(source)
    words = source.view(np.uint64)
    steps: dict[str, Callable[[], object]] = {
        "copy": lambda: np.copyto(target, source),
        "put": lambda: client.put("bench", source, volatile=volatile),
        "get": lambda: client.get("bench"),
        "copy, sum": lambda: (np.copyto(target, source), target.view(np.uint64).sum()),
        "get, sum": lambda: client.get("bench").view(np.uint64).sum(),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(count + 1):
        # Bytes that are there already are not stored again; each round has its own.
        words[:: 1 << 12] = number
        for name, work in steps.items():
            took = seconds(work)
            if number > 0:
                times[name].append(took)
    assert np.array_equal(client.get("bench"), source)
    return times


def show(size: int, times: dict[str, list[float]]) -> None:
    print(f"{size >> 20} MiB          median ms   ratio to the copy: min / median / max")
    for name, took in times.items():
        base = times["copy, sum" if name.endswith("sum") else "copy"]
        ratios = sorted(one / other for one, other in zip(took, base, strict=True))
        shown = f"{ratios[0]:.3f} / {statistics.median(ratios):.3f} / {ratios[-1]:.3f}"
        print(f"  {name:<12} {1000 * statistics.median(took):>12.2f}   {shown}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--sizes", default="8MiB,1GiB", help="MiB or GiB, separated by commas")
    parser.add_argument("--durable", action="store_true", help="put onto disk, not into memory alone")
    arguments = parser.parse_args()
    units = {"MiB": 1 << 20, "GiB": 1 << 30}
    for text in arguments.sizes.split(","):
        size = int(text[:-3]) * units[text[-3:]]
        node = Node("--prefault", memory=f"{max(3 * size, 256 << 20)}B")
        try:
            with shoal.Client(node.socket) as client:
                show(size, rounds(client, size, arguments.rounds, not arguments.durable))
        finally:
            node.stop()


if __name__ == "__main__":
    main()
