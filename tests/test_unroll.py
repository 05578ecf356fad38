"`unroll` against an independent implementation, in float64, on networks and shapes drawn at random."
import multiprocessing
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from mtt_nb import speed
from mtt_nb.models import FlatModel, build
from mtt_nb.speed import Fast, Replayed
from mtt_nb.unroll import unroll


def independent(module, theta, xs, ys, lr, momentum):
    "N steps of SGD written without the package: a dictionary of parameters, log-probabilities by hand"
    shapes = [(k, p.shape, p.numel()) for k, p in module.named_parameters()]
    at, params, velocity = 0, {}, {}
    for name, shape, size in shapes:
        params[name] = theta[at:at + size].reshape(shape)
        at += size
    for i in range(len(xs)):
        logits = torch.func.functional_call(module, params, (xs[i],))
        logp = logits - logits.exp().sum(1, keepdim=True).log()
        p = ys[i] if ys.is_floating_point() else torch.eye(logits.shape[1], dtype=logits.dtype)[ys[i]]
        loss = -(p * logp).sum() / len(logits)
        grads = torch.autograd.grad(loss, list(params.values()), create_graph=True)
        for (name, value), g in zip(list(params.items()), grads):
            velocity[name] = momentum * velocity[name] + g if i else g
            params[name] = value - lr[i] * velocity[name]
    return torch.cat([p.reshape(-1) for p in params.values()])


CASES = [
    (lambda: build("convnet", (1, 8, 8), 10, width=6, depth=2), (1, 8, 8), 10),
    (lambda: build("convnet", (3, 16, 12), 4, width=5, depth=2, pool="max"), (3, 16, 12), 4),
    (lambda: build("convnet", (1, 8, 8), 3, width=4, depth=1, norm="none"), (1, 8, 8), 3),
    (lambda: build("mlp", (1, 5, 7), 3, width=9), (1, 5, 7), 3),
    (lambda: build("lenet", (1, 16, 16), 5), (1, 16, 16), 5),
    (lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.Tanh(), nn.LayerNorm(7), nn.Linear(7, 2)), (3, 2, 2), 2),
    (lambda: build("alexnet", (1, 8, 8), 3, width=2), (1, 8, 8), 3),
    (lambda: build("vgg11", (3, 8, 8), 3, width=2), (3, 8, 8), 3),
    (lambda: build("resnet18", (1, 9, 8), 4, width=2), (1, 9, 8), 4),
]


@pytest.mark.parametrize("memory", ["constant", "full"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("case", range(len(CASES)))
@pytest.mark.parametrize("soft", [False, True])
def test_equals_an_independent_unroll(case, momentum, memory, soft):
    make, shape, classes = CASES[case]
    g = torch.Generator().manual_seed(case + 10 * soft)
    model = FlatModel(make())
    model.module.double()
    n, b = 1 + case % 6, 2 + case % 3  # deep networks with many steps would magnify rounding
    theta = model.init(g).double().requires_grad_()
    xs = torch.randn(n, b, *shape, generator=g, dtype=torch.double).requires_grad_()
    lr = (0.2 * torch.rand(n, generator=g, dtype=torch.double) + 0.01).requires_grad_()
    if soft: ys = torch.rand(n, b, classes, generator=g, dtype=torch.double).softmax(-1).requires_grad_()
    else: ys = torch.randint(classes, (n, b), generator=g)
    weights = torch.randn(model.n_params, generator=g, dtype=torch.double)
    wanted = [theta, xs, lr] + [ys] * soft
    ends, grads = [], []
    ours = unroll(model, theta, xs, ys, lr, momentum=momentum, memory=memory)
    for end in (ours, independent(model.module, theta, xs, ys, lr, momentum)):
        ends.append(end.detach())
        grads.append(torch.autograd.grad(end @ weights + end.square().sum(), wanted))
    assert (ends[0] - ends[1]).norm() <= 1e-12 * ends[1].norm()
    for ours, theirs in zip(*grads): assert (ours - theirs).norm() <= 1e-12 * theirs.norm() + 1e-15


class Emulated(Replayed):
    "A replayed function whose graph is a stand-in: what it works on and what it leaves lies in the same places at every call, as on a GPU"
    def __init__(self, f, tensors):
        self.inputs, self.lock = [t.detach().clone() for t in tensors], threading.Lock()
        self.outputs = f(*self.inputs)
        self.graph = SimpleNamespace(replay=lambda: [old.copy_(new) for old, new in zip(tree_leaves(self.outputs), tree_leaves(f(*self.inputs))) if new is not None])


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("soft", [False, True])
def test_replayed_steps_on_a_stand_in(monkeypatch, momentum, soft):
    monkeypatch.setattr(Fast, "_make", lambda self, tensors: Emulated(self.f, tensors))
    model, g = FlatModel(build("convnet", (1, 8, 8), 3, width=4, depth=2)), torch.Generator().manual_seed(0)
    model.module.double()
    results = {False: [], True: []}
    for _ in range(2):  # the second time nothing is made anew, and the results of the first must stay
        theta, xs = model.init(g).double(), torch.randn(4, 3, 1, 8, 8, generator=g, dtype=torch.double)
        ys = torch.randn(4, 3, 3, generator=g, dtype=torch.double).softmax(-1) if soft else torch.randint(3, (4, 3), generator=g)
        for compile in results:
            wanted = [t.clone().requires_grad_() for t in (theta, xs, torch.full((4,), 0.1, dtype=torch.double), *[ys] * soft)]
            end, path = unroll(model, wanted[0], wanted[1], wanted[3] if soft else ys, wanted[2], momentum=momentum, compile=compile, return_path=True)
            results[compile] += [end.detach(), path, *torch.autograd.grad(end.square().sum(), wanted)]
    for ours, theirs in zip(results[True], results[False], strict=True): assert (ours - theirs).norm() <= 1e-12 * theirs.norm()


def test_calls_of_a_replayed_function_from_several_threads_do_not_mix():
    "Its inputs are filled, it is replayed and its outputs are copied before another thread's call begins"
    def slow(x): time.sleep(0.002); return x + 1
    replayed = Emulated(slow, (torch.zeros(3),))
    with ThreadPoolExecutor(8) as pool: results = list(pool.map(lambda k: replayed(torch.full((3,), float(k)))[0].item(), range(40)))
    assert results == [k + 1.0 for k in range(40)]


def test_a_recording_takes_any_layout_in_memory(monkeypatch):
    "What was recorded on images in one order of channels is right for those in another, of which a view cannot be taken"
    monkeypatch.setattr(speed, "compiled", speed.recorded)
    model, g = FlatModel(build("mlp", (3, 4, 4), 2, width=5)), torch.Generator().manual_seed(0)
    theta, xs, ys = model.init(g), torch.randn(2, 5, 4, 4, 3, generator=g).permute(0, 1, 4, 2, 3), torch.randint(2, (2, 5), generator=g)
    for x in (xs.contiguous(), xs): assert torch.allclose(unroll(model, theta, x, ys, 0.1, compile=True), unroll(model, theta, x, ys, 0.1))


def test_a_cpu_compiles_once_however_cuda_is_set(monkeypatch):
    "The switches are those of all threads: a step must not be compiled anew because another thread's step has just ended"
    monkeypatch.setattr(speed, "compiled", speed.recorded)
    double = Fast(lambda x: 2 * x)
    with speed.repeatable(): double(torch.ones(2))
    double(torch.ones(2))
    assert len(double.made) == 1


@pytest.mark.skipif(torch.__version__.startswith("2.4."), reason="PyTorch 2.4 cannot")
def test_a_network_can_be_part_of_a_compiled_function():
    "Its lock, which PyTorch cannot record, is not in the way"
    model, g = FlatModel(build("mlp", (1, 4, 4), 2, width=3)), torch.Generator().manual_seed(0)
    theta, x = model.init(g), torch.randn(5, 1, 4, 4, generator=g)
    whole = torch.compile(lambda theta, x: model(theta, x).square(), fullgraph=True, backend="eager")
    assert torch.equal(whole(theta, x), model(theta, x).square())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no process is forked on Windows")
def test_a_forked_process_can_compute():
    "Even if it was forked while another thread did"
    computing = threading.Event()

    class Slow(nn.Linear):
        def forward(self, x): computing.set(); time.sleep(0.2); return super().forward(x)

    model, point = FlatModel(Slow(2, 1)), (torch.ones(3), torch.ones(1, 2))
    thread, process = threading.Thread(target=model, args=point), multiprocessing.get_context("fork").Process(target=model, args=point)
    thread.start()
    computing.wait()
    process.start()
    thread.join()
    process.join(60)
    if process.exitcode is None: process.kill()
    assert process.exitcode == 0
