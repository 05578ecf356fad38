"""What nbs/bench_cuda.json holds, measured on the GPU of this machine: python tests/measure_cuda.py [FILE] [PART ...]

A part is `steps`, `errors` or a task of `mtt_nb.bench.TASKS`; by default all, some ten minutes. Written after every
part, and what FILE holds of other parts is kept, so that a stop leaves what is there."""
import json
import sys
from functools import partial
from pathlib import Path

import torch

from mtt_nb.bench import TASKS, bench, errors, seconds
from mtt_nb.data import seeded
from mtt_nb.evaluate import momentum_step
from mtt_nb.experts import sgd_step
from mtt_nb.models import FlatModel, build
from mtt_nb.speed import Replayed, compiled, repeatable
from mtt_nb.unroll import adjoint_step, student_step


def milliseconds(f, times=30):
    for _ in range(3): f()
    return round(1000 * seconds(lambda: [f() for _ in range(times)], "cuda") / times, 3)


def replayed(f, tensors, tf32, free):
    "Of a graph that does this step; `free`: by algorithms that need not repeat to the last bit"
    with torch.no_grad(), repeatable(tf32):
        torch.backends.cudnn.deterministic = not free
        return milliseconds(Replayed(compiled(f, tensors), tensors).graph.replay)


def steps():
    "Milliseconds of single steps of a ConvNet of width 128 on images of 32x32, as PyTorch runs them and replayed"
    model, g = FlatModel(build("convnet", (3, 32, 32), 10, width=128)).to("cuda"), seeded(0)
    def network(*lead): return torch.stack([model.init(g) for _ in range(lead[0])]) if lead else model.init(g)
    def batch(*lead): return torch.randn(*lead, 3, 32, 32, generator=g), torch.randint(10, lead, generator=g)
    tasks, lr = {}, torch.tensor(0.01)
    for n in (10, 100):
        theta, (x, y) = network(), batch(n)
        tasks[f"student step, {n} images"] = partial(student_step, model, 0.0), (theta, x, y, lr, theta)
        tasks[f"adjoint step, {n} images"] = partial(adjoint_step, model, 0.0, (True, True, False)), (theta, x, y, lr, theta, theta, theta)
    tasks["expert's step, 256 images"] = partial(sgd_step, model), (network(), *batch(256), lr)
    theta = network(5)
    tasks["evaluation step, 5 networks, 10 images"] = partial(momentum_step, model), (theta, *batch(5, 10), lr, theta)
    for name, (f, tensors) in tasks.items():
        tensors, row = tuple(t.to("cuda") for t in tensors), {}
        with torch.no_grad(): row["eager"] = milliseconds(lambda: f(*tensors), 10)  # noqa: B023, called at once
        for kind, tf32 in (("fp32", False), ("tf32", True)):
            for free in (False, True): row[kind + " free" * free] = replayed(f, tensors, tf32, free)
        yield name, row


if __name__ == "__main__":
    file, parts = Path(sys.argv[1] if len(sys.argv) > 1 else "bench_cuda.json"), sys.argv[2:] or ["steps", *TASKS, "errors"]
    found = json.loads(file.read_text()) if file.exists() else dict(tasks={}, steps={}, errors={})
    def keep(): file.write_text(json.dumps(found, indent=1) + "\n")
    for part in parts:
        if part == "steps":
            for name, row in steps():
                found["steps"][name] = row
                print(name, row, flush=True)
                keep()
        elif part == "errors":
            found["errors"] = errors((3, 32, 32), 10, 50, 128, "cuda",
                                     ("reference", "constant", "replayed", "reference, tf32", "replayed, tf32"))
            print(found["errors"], flush=True)
        else:
            new = bench([part], "cuda")
            found |= new | dict(tasks=found["tasks"] | new["tasks"], errors=found["errors"])
        keep()
