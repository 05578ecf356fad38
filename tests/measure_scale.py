"""How much faster two ranks of one thread are than one: python tests/measure_scale.py nbs/scale_cpu.json

On a machine with nothing else to do. Start-up is left out: the clock of a recording begins with the first expert, that of a distillation with the fourth step."""
import json
import platform
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from test_scale import ended, started, wait_until

from mtt_nb.data import load
from mtt_nb.distill import MTT
from mtt_nb.experts import ExpertBuffer
from mtt_nb.run import Protocol, distil
from mtt_nb.scale import leave, ranks
from mtt_nb.settings import find_preset

RECORD = ["experts", "--n", 8, "--epochs", 22, "--device", "cpu", "--out"]
STEPS = 40


def distilling(args):
    "Meta-steps of one segment a rank, and the time of all but the first three"
    experts, out = args
    times = []
    config = replace(find_preset("digits-ipc1").config, iterations=STEPS, segments_per_step=ranks().size, max_start_epoch=8)
    mtt = MTT(config, load("digits"), ExpertBuffer(experts))
    mtt.join(ranks())
    protocol = Protocol(nets=1, epochs=1, val_nets=1, eval_every=STEPS)
    distil(mtt, mtt.data, out, protocol, observers=[lambda state: times.append(time.monotonic())])
    leave()
    if not ranks().rank: Path(out, "seconds").write_text(str(times[-2] - times[2]))


def measure(rounds=3):
    found = {"recording": {1: [], 2: []}, "distilling": {1: [], 2: []}}
    with tempfile.TemporaryDirectory() as folder:
        with started([*RECORD, Path(folder, "first"), "--stop-after", "0s"], folder) as processes: ended(processes)  # loads the package
        for i in range(rounds):
            for size in (1, 2):
                out = Path(folder, f"experts{i}{size}")
                with started([*RECORD, out], folder, size) as processes:
                    wait_until(lambda there=out: list(there.glob(".*.lock")))
                    began = time.monotonic()
                    assert ended(processes, 300) == [0] * size
                found["recording"][size].append(8 / (time.monotonic() - began))
                out, experts = Path(folder, f"run{i}{size}"), out
                with started([experts, out], folder, size, job=distilling) as processes: assert ended(processes, 300) == [0] * size
                found["distilling"][size].append(size * (STEPS - 4) / float((out / "seconds").read_text()))
                print(i, size, found["recording"][size][-1], found["distilling"][size][-1], flush=True)
    machine = dict(device=next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine()),
                   torch=torch.__version__, python=platform.python_version(), date=time.strftime("%d %B %Y"))
    return {"machine": machine, "per second": found}


if __name__ == "__main__": Path(sys.argv[1]).write_text(json.dumps(measure(), indent=1) + "\n")
