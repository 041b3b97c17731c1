"""One table of how fast the program is, each figure a ratio to the plain baseline.

    python -m tests.benchmarks [--only NAME ...] [--quick] [--threads N] [--json]

docs/benchmarks.md says what each row means. Further tables: tests.benchmarks.memory,
tests.benchmarks.flicker, tests.benchmarks.gpu.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Measure = Callable[[bool, int], Any]


def rows() -> dict[str, Measure]:
    """Every row by its name."""
    from torch import bfloat16

    from tests.benchmarks import peers, speed

    return {
        "paint": lambda q, _t: speed.paint("paint", "resnet9", "≥ 2.3×", q),
        "paint-mobile": lambda q, _t: speed.paint("paint-mobile", "mobile", "≥ 12×", q),
        "paint-1mp": lambda q, t: speed.paint_large("paint-1mp", 1, "≥ 2×, half the memory", q, t),
        "paint-4mp": lambda q, t: speed.paint_large("paint-4mp", 4, "≥ 2×, half the memory", q, t),
        "peers": lambda q, t: peers.painted_by_peers("peers", 256, q, t),
        "peers-1mp": lambda q, t: peers.painted_by_peers("peers-1mp", 1024, q, t),
        "step": lambda q, _t: speed.step("step", "resnet9", 256, "≥ 1.8×, error ≤ 2×", q),
        "step-bf16": lambda q, _t: speed.step("step-bf16", "resnet9", 256, "≥ 4×", q, bfloat16),
        "step-mobile": lambda q, _t: speed.step("step-mobile", "mobile", 128, "", q),
        "start": lambda q, _t: speed.start("start", "resnet9", "≤ 1.25", q),
        "start-mobile": lambda q, _t: speed.start("start-mobile", "mobile", "≤ 1.25", q),
        "start-style": lambda q, _t: speed.start_bundled("start-style", "monet", "≤ 0.4", q),
        "help": lambda q, _t: speed.help_page("help", "< 300 ms", q),
        "pictures": lambda q, _t: speed.training_pictures("pictures", "≥ 1,000 a second", q),
    }


def machine() -> dict[str, object]:
    """What the figures were measured on, and how busy it was."""
    import torch

    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if "model name" in line), model)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "load before": round(load, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these rows only; --list")
    parser.add_argument("--list", action="store_true", help="the names of the rows")
    parser.add_argument("--quick", action="store_true", help="3 runs of each: to see that it works")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true", help="one object a row on stdout")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # of the processes that are started, too
    import torch

    from tests.benchmarks.timing import table

    torch.set_num_threads(options.threads)
    known = rows()
    if options.list:
        print(*known, sep="\n")
        return
    unknown = set(options.only or ()) - set(known)
    if unknown:
        parser.error(f"no row is named {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    about = machine()
    print(json.dumps({"machine": about}) if options.json else _said(about), flush=True)
    done = []
    for name, measure in known.items():
        if options.only and name not in options.only:
            continue
        print(f"{name} …", file=sys.stderr, flush=True)
        found = measure(options.quick, options.threads)
        for row in found if isinstance(found, list) else [found]:
            done.append(row)
            if options.json:
                print(json.dumps(row.record()), flush=True)
    if not options.json:
        print("\n" + table(done))


def _said(about: dict[str, object]) -> str:
    return ", ".join(f"{key} {value}" for key, value in about.items())


if __name__ == "__main__":
    main()
