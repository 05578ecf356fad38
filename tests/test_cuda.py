"What only a GPU can show: the same numbers as a CPU, the same bits each time, replayed graphs, memory. Skipped where there is none."
import json
import warnings
from functools import partial

import pytest
import torch

from mtt_nb.augment import DSA, part
from mtt_nb.bench import errors, inputs, package_step, peak_growth, reference_step
from mtt_nb.cli import main
from mtt_nb.data import Raw, load, make_data, seeded
from mtt_nb.distill import MTT, MTTConfig
from mtt_nb.driver import Driver
from mtt_nb.evaluate import evaluate, train_networks
from mtt_nb.experts import record_experts
from mtt_nb.history import Recorder, bend, gradient_shares
from mtt_nb.methods import SELECTIONS
from mtt_nb.models import FlatModel, build
from mtt_nb.plots import plot_distances
from mtt_nb.speed import Fast, repeatable
from mtt_nb.synthetic import SyntheticSet
from mtt_nb.unroll import unroll

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICE = "cuda"
AUGMENT = DSA("crop_scale_rotate")
NETWORK = dict(name="convnet", shape=(1, 8, 8), n_classes=10, width=32, depth=2)


@pytest.fixture(scope="module")
def data(): return load("digits", device=DEVICE)


@pytest.fixture(scope="module")
def buffer(data, tmp_path_factory):
    return record_experts(data, build(**NETWORK), tmp_path_factory.mktemp("experts"), n=2, epochs=4, augment=AUGMENT)


@pytest.fixture(autouse=True)
def no_warnings():
    "A step that could not be compiled would only warn"
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*could not be compiled.*")
        yield


def config(**settings):
    return MTTConfig(**dict(syn_steps=5, expert_epochs=2, max_start_epoch=3, lr_img=10.0, lr_lr=1e-3, lr_teacher=0.05, augment=AUGMENT.strategy) | settings)


def ran(data, buffer, n=3, **settings):
    mtt = MTT(config(**settings), data, buffer)
    for _ in range(n): mtt.step()
    return mtt


def run(*args):
    with pytest.raises(SystemExit) as end: main(list(args))
    assert not end.value.code


def apart(a, b): return ((a.double().cpu() - b.double().cpu()).norm() / b.double().norm().cpu()).item()


# the same numbers as elsewhere

@pytest.mark.parametrize("shape,batch,steps,width", [((1, 8, 8), 10, 20, 32), ((3, 32, 32), 10, 3, 128)])
def test_all_variants_agree_in_float64(shape, batch, steps, width):
    for name, error in errors(shape, batch, steps, width, DEVICE, ("reference", "constant", "replayed")).items():
        assert error < (1e-12 if name.endswith("64") else 0.1), (name, error)  # a ReLU may fall on the other side in float32


def test_own_images_may_be_on_the_gpu():
    x, y = torch.rand(20, 1, 4, 4, device=DEVICE), torch.arange(20, device=DEVICE) % 2
    here, there = (make_data("own", Raw(*(t.to(device) for t in (x, y, x, y)), ("a", "b")), device=DEVICE) for device in ("cpu", DEVICE))
    assert here.fingerprint == there.fingerprint and torch.equal(here.x_train, there.x_train)


def test_whitened_as_on_the_cpu():
    here, there = (load("digits", zca=True, device=device) for device in ("cpu", DEVICE))
    assert there.x_test.is_cuda and there.transform.whiten.is_cuda and here.fingerprint == there.fingerprint
    assert apart(there.x_test, here.x_test) < 1e-5 and apart(there.transform.colour, here.transform.colour) < 1e-5


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("soft", [False, True])
def test_unroll_equals_that_of_the_cpu(momentum, soft):
    model, g, found = FlatModel(build(**NETWORK)), seeded(0), []
    theta, xs, ys = model.init(g).double(), torch.randn(4, 6, 1, 8, 8, generator=g).double(), torch.randint(10, (4, 6), generator=g)
    if soft: ys = torch.randn(4, 6, 10, generator=g).double().softmax(-1)
    for device, compile in (("cpu", False), (DEVICE, False), (DEVICE, True)):
        wanted = [t.to(device).requires_grad_() for t in (theta, xs, torch.full((4,), 0.1).double(), *[ys] * soft)]
        end = unroll(model.to(device), wanted[0], wanted[1], wanted[3] if soft else ys.to(device), wanted[2], momentum=momentum, compile=compile)
        found.append([end.detach(), *torch.autograd.grad(end.square().sum(), wanted)])
    for other in found[1:]: assert all(apart(b, a) < 1e-12 for a, b in zip(found[0], other))


def test_augmentation_equals_that_of_the_cpu():
    for mode in ("one", "all"):
        dsa, g = DSA(mode=mode), seeded(0)
        images, weights, params = torch.randn(20, 3, 32, 32, generator=g), torch.randn(20, 3, 32, 32, generator=g), dsa.sample(20, (3, 32, 32), g)
        found = []
        for device in ("cpu", DEVICE):
            x = images.to(device).requires_grad_()
            out = dsa(x, {k: p.to(device) for k, p in params.items()})
            found += [(out, *torch.autograd.grad((out * weights.to(device)).sum(), x))]
        assert all(apart(b, a) < 1e-5 for a, b in zip(*found))


@pytest.mark.parametrize("name", ["convnet", "mlp", "lenet", "alexnet", "vgg11", "resnet18"])
def test_networks_equal_those_of_the_cpu(name):
    model, g = FlatModel(build(name, (3, 32, 32), 10)), seeded(0)
    theta, x = model.init(g), torch.randn(4, 3, 32, 32, generator=g)
    with repeatable(): here, there = model.to(DEVICE)(theta.to(DEVICE), x.to(DEVICE)), model.to("cpu")(theta, x)
    assert apart(here, there) < 1e-4
    assert model.to(DEVICE).init(seeded(0, device=DEVICE)).device.type == "cuda"


# the same bits each time

def test_experts_repeat_and_resume(data, buffer, tmp_path):
    options = dict(n=2, epochs=4, augment=AUGMENT)
    record_experts(data, build(**NETWORK), tmp_path, **options | dict(n=1))
    again = record_experts(data, build(**NETWORK), tmp_path, **options)
    for i in range(2): assert torch.equal(again.trajectory(i), buffer.trajectory(i))


@pytest.mark.parametrize("options", [dict(compile=True), dict(at_once=2), dict(at_once=2, compile=True)])
def test_experts_are_the_same_by_other_ways(data, buffer, tmp_path, options):
    other = record_experts(data, build(**NETWORK), tmp_path, n=2, epochs=4, augment=AUGMENT, **options)
    assert torch.equal(other.theta(1, 0), buffer.theta(1, 0)) and apart(other.theta(1, 1), buffer.theta(1, 1)) < 0.02


@pytest.mark.parametrize("settings", [{}, dict(compile=True), dict(compile=True, allow_tf32=True), dict(segments_per_step=2), dict(path_device="cpu"),
                                      dict(memory="full"), dict(student_momentum=0.5, compile=True)])
def test_distillation_repeats(data, buffer, settings):
    one, two = ran(data, buffer, **settings), ran(data, buffer, **settings)
    assert torch.equal(one.images, two.images) and torch.equal(one.lr, two.lr) and one.images.is_cuda


def test_ways_of_distilling_agree(data, buffer):
    plain = ran(data, buffer)
    assert torch.equal(ran(data, buffer, path_device="cpu").images, plain.images)
    for other in (dict(compile=True), dict(memory="full")): assert apart(ran(data, buffer, **other).images, plain.images) < 1e-3


def test_a_path_asked_for_late_is_that_of_the_step(data, buffer):
    mtt = MTT(config(), data, buffer)
    first = mtt.step()
    path = first.path.clone()
    mtt.step()
    assert torch.equal(first.path, path)


def test_replay_leaves_inputs_and_earlier_results_alone():
    @Fast
    def twice(x, y): return x * 2 + y, y.clone()
    x, y = torch.arange(3.0, device=DEVICE), torch.ones(3, device=DEVICE)
    first, _ = twice(x, y)
    second, kept = twice(x + 1, y * 5)
    assert first.tolist() == [1, 3, 5] and second.tolist() == [7, 9, 11] and kept.tolist() == [5, 5, 5] and x.tolist() == [0, 1, 2]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_replay_on_another_gpu():
    f = Fast(lambda x: x + 1)
    assert [f(torch.full((3,), float(k), device="cuda:1")).tolist() for k in range(3)] == [[k + 1] * 3 for k in range(3)]


def test_a_held_segment(data, buffer):
    "Read from a file, so not on the GPU yet"
    mtt = MTT(config(), data, buffer)
    state = mtt.step()
    loss, path, _ = bend(mtt, state, state.images)
    assert abs(loss - state.loss) < 1e-6 and torch.equal(path, state.path)
    loss, path, segment = bend(mtt, state, state.images, buffer.at(1, 1, 2))
    assert loss > 0 and segment.expert == 1 and path.is_cuda
    assert apart(gradient_shares(mtt, state).sum(0), state.grad) < 1e-3


@pytest.mark.parametrize("path_device", [None, "cpu"])
def test_frames_and_pictures(data, buffer, path_device):
    mtt = MTT(config(path_device=path_device), data, buffer)
    recorder, state = Recorder(mtt), mtt.step()
    recorder(state)
    assert recorder.history.frames[0]["path"].shape == (6, 2)
    assert plot_distances(mtt.model, state.path, state.segment.start, state.segment.target)._repr_png_()[:4] == b"\x89PNG"


# memory and judging

def test_memory_does_not_grow_with_the_steps():
    shape, width = (3, 32, 32), 64
    model = FlatModel(build("convnet", shape, 10, width=width)).to(DEVICE)
    grown = {}
    for name, step, n in ((10, package_step, 10), (40, package_step, 40), (80, package_step, 80), (160, package_step, 160),
                          ("reference", reference_step, 40)):
        given = inputs(model, shape, 10, n, DEVICE)
        step(model, given._replace(params={k: p[:1] for k, p in given.params.items()}))  # what is taken once
        grown[name] = peak_growth(partial(step, model, given), DEVICE)
    kept = (model.n_params + 2 * 10 * 3 * 32 * 32) * 4  # in a step: the point passed, augmented images and their gradients
    room = 80 * part(torch.device(DEVICE))  # 80 bytes a value of what the augmentation works on at once, from 70 steps on a whole part
    assert grown[160] - grown[80] < 1.5 * 80 * kept and grown[40] - grown[10] < 2 * 30 * kept + room, grown
    assert grown["reference"] > 4 * grown[40], grown


def test_evaluation(data, buffer):
    synthetic = ran(data, buffer, n=20).synthetic
    plain, fast = (evaluate(synthetic, data, nets=3, epochs=50, compile=compile) for compile in (False, True))
    assert plain == evaluate(synthetic, data, nets=3, epochs=50) and abs(plain.mean - fast.mean) < 0.1 and plain.mean > 0.2
    model, x, y = FlatModel(build(**NETWORK)).to(DEVICE), data.x_train[:40], data.y_train[:40]
    with repeatable(): one, two = (train_networks(model, x, y, 0.05, nets=2, epochs=2, compile=compile) for compile in (False, True))
    assert apart(two, one) < 1e-3


@pytest.mark.parametrize("name", SELECTIONS)
def test_selections(data, name):
    method = SELECTIONS[name]
    make = lambda: method.make(method.presets["digits", 1].config, data, build(**NETWORK))
    assert torch.equal(make().images, make().images)


def test_what_a_gpu_made_serves_a_cpu(data, buffer, tmp_path):
    mtt = ran(data, buffer)
    mtt.synthetic.save(tmp_path / "set.safetensors")
    there = SyntheticSet.load(tmp_path / "set.safetensors")
    assert there.images.device.type == "cpu" and torch.equal(there.images, mtt.images.cpu()) and there._repr_png_()[:4] == b"\x89PNG"
    assert 0 <= evaluate(there, load("digits"), nets=1, epochs=2).mean <= 1


def test_driver_and_plane(data, buffer):
    driver = Driver(lambda: MTT(config(), data, buffer))
    driver.run(3)
    assert driver.distiller.steps == 3


def test_demo(tmp_path, capsys):
    run("demo", "--out", str(tmp_path / "demo"), "--device", DEVICE)
    accuracies = json.loads((tmp_path / "demo" / "results.json").read_text())["accuracies"]
    assert sum(accuracies["distilled"]) > sum(accuracies["random"]) and "device: cuda" in capsys.readouterr().out
    run("evaluate", str(tmp_path / "demo" / "distilled.safetensors"), "--model", "mlp", "--epochs", "50", "--out", str(tmp_path / "nets"))
