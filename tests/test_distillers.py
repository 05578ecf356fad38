"What every method promises: same seed, same run; stopped and resumed, the same run; finite; better than where it began; bad input refused."
from dataclasses import replace

import pytest
import torch

from mtt_nb.data import load
from mtt_nb.distiller import load_checkpoint, save_checkpoint
from mtt_nb.evaluate import evaluate
from mtt_nb.experts import record_experts
from mtt_nb.history import History, Recorder
from mtt_nb.live import Live
from mtt_nb.methods import METHODS
from mtt_nb.models import build

SHORT = {"mtt": dict(syn_steps=5), "cafe": dict(inner_epochs=2), "cafe-dsa": dict(inner_epochs=2)}  # a quick step, for tests that compare runs
BOUNDED = {"ld", "ld-ridge", "kip"}  # no step is wild: labels are cut back to probabilities, and a kernel of correlations knows no size
DATA = load("digits", device="cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="session")
def make(tmp_path_factory):
    "A function that makes a method on the digits, with its preset and other settings"
    buffers = []
    def make(name, data=DATA, network=None, **settings):
        method, preset = METHODS[name], METHODS[name].presets["digits", 1]
        model = network or build(**preset.network, shape=DATA.shape, n_classes=DATA.n_classes)
        if method.needs_experts and not buffers: buffers.append(record_experts(DATA, model, tmp_path_factory.mktemp("experts"), **preset.experts))
        return method.make(replace(preset.config, **settings), data, buffers[0] if method.needs_experts else model)
    return make


def steps(distiller, n): return [distiller.step() for _ in range(n)]


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(v, b[k]) if isinstance(v, torch.Tensor) else v == b[k] for k, v in a.items())


every_method = pytest.mark.parametrize("name", METHODS)


@every_method
def test_same_seed_same_run(make, name):
    one, two, other = (make(name, **SHORT.get(name, {}), seed=seed) for seed in (1, 1, 2))
    losses = [s.loss for s in steps(one, 3)]
    torch.rand(5)  # the global generator has no say
    assert losses == [s.loss for s in steps(two, 3)] and same(one, two)
    assert losses != [s.loss for s in steps(other, 3)] and not torch.equal(one.images, other.images)


@every_method
def test_resumed_is_uninterrupted(make, name, tmp_path):
    settings = dict(SHORT.get(name, {}), optimizer="adam", lr_img=0.01)
    if hasattr(METHODS[name].presets["digits", 1].config, "outer_steps"): settings |= dict(outer_steps=4)  # in the middle of a network
    whole, resumed = make(name, **settings), make(name, **settings)
    steps(whole, 3)
    save_checkpoint(tmp_path / "checkpoint.safetensors", whole)
    load_checkpoint(tmp_path / "checkpoint.safetensors", resumed)
    assert [s.loss for s in steps(whole, 3)] == [s.loss for s in steps(resumed, 3)]
    assert same(whole, resumed) and resumed.steps == 6
    with pytest.raises(ValueError, match="another run .*seed"): load_checkpoint(tmp_path / "checkpoint.safetensors", make(name, **settings, seed=9))


@every_method
def test_states_and_iteration(make, name):
    distiller = make(name, iterations=3, **SHORT.get(name, {}))
    images, labels = distiller.images.clone(), distiller.labels.clone()
    states = list(distiller)
    assert [s.step for s in states] == [1, 2, 3] and distiller.steps == 3
    assert torch.equal(states[0].images, images) and torch.equal(states[0].labels, labels)  # a state's images are those of its loss
    moved = [not torch.equal(a, b) for a, b in ((states[1].images, images), (states[1].labels, labels))]
    assert moved == [name in distiller.learns for name in ("images", "labels")]
    for s in states:
        assert torch.tensor([s.loss, s.lr]).isfinite().all() and s.images.isfinite().all() and s.images.shape == images.shape
        assert s.grad is None or s.grad.isfinite().all() and s.grad.shape == s.images.shape
    made = distiller.synthetic
    assert made.meta["method"] == name and made.meta["step"] == 3 and made.meta["fingerprint"] == DATA.fingerprint
    assert len(made) == 10 and made.images is not distiller.images


@every_method
def test_better_than_where_it_began(make, name):
    distiller = make(name)
    began = distiller.synthetic
    for _ in range(min(40, distiller.config.iterations)): distiller.step()
    before, after = (evaluate(s, DATA, nets=5, epochs=100).mean for s in (began, distiller.synthetic))
    assert after > before + 0.02, (before, after)


@every_method
def test_refuses_bad_input(make, name):
    with pytest.raises(ValueError, match="ipc 1000: class"): make(name, ipc=1000)
    with pytest.raises(ValueError, match="lr_img"): make(name, lr_img=-1.0)
    with pytest.raises(ValueError, match="augmentation"): make(name, augment="blur")
    with pytest.raises(ValueError, match="cannot change"): make(name).change(seed=3)
    if METHODS[name].needs_experts:
        with pytest.raises(ValueError, match="other data"): make(name, data=load("digits", zca=True))
    else:
        with pytest.raises(ValueError, match="10 classes"): make(name, network=build("mlp", DATA.shape, 3))
        with pytest.raises(ValueError, match="images"): make(name, network=build("convnet", (1, 16, 16), 10))


@every_method
def test_a_wild_step_is_refused_and_leaves_everything(make, name):
    sizes = METHODS[name].make.learns.values()
    distiller, refused = make(name, **SHORT.get(name, {}), **dict.fromkeys(sizes, 1e38), optimizer="sgd", pix_init="noise"), None
    while distiller.steps < 5 and not refused:
        before = {k: v for k, v in distiller.state_dict().items() if k != "generator"}
        try: assert torch.tensor(distiller.step().loss).isfinite()
        except ValueError as e: refused = e
    if refused is None: assert name in BOUNDED or DATA.device.type != "cpu"  # a GPU's sums may stay finite where a CPU's overflow
    else:
        assert name not in BOUNDED and f"lower {next(iter(sizes))}" in str(refused)
        assert all(torch.equal(v, distiller.state_dict()[k]) for k, v in before.items() if isinstance(v, torch.Tensor))


def test_rates_that_overflow_are_refused_in_the_step_that_makes_them(make):
    "Their logarithms are finite still"
    with pytest.raises(ValueError, match="meta-step 1 .*lower lr_img.*lr_lr"): make("dd", lr_lr=1000.0).step()


@pytest.mark.parametrize("name", ["ld", "ld-ridge"])
def test_a_network_that_overflows_is_told_by_its_own_rate_and_leaves_nothing_behind(make, name):
    ld = make(name)
    ld.step()
    ld.change(lr_inner=1e30)
    with pytest.raises(ValueError, match="lower lr_label .*lr_inner"): steps(ld, 3)
    assert all(t.isfinite().all() for t in (ld.losses, *([ld.weights] if name == "ld-ridge" else [])))


@every_method
def test_history_and_live(make, name, tmp_path):
    "A recorder, a history file and the live lab take every method, with a student's path or without"
    distiller = make(name, iterations=4, **SHORT.get(name, {}))
    recorder = Recorder(distiller)
    for state in distiller: recorder(state)
    recorder.history.save(tmp_path / "history.safetensors")
    frames = History.load(tmp_path / "history.safetensors").frames
    assert [f["step"] for f in frames] == [1, 2, 3, 4] and ("path" in frames[0]) == (name == "mtt")
    lab = Live(lambda: make(name, iterations=4, **SHORT.get(name, {})))
    assert lab.run(3).step == 3 and len(lab.history.frames) > 0
    assert METHODS[name].make.knobs[0] in lab.sliders and ("syn_steps" in lab.sliders) == (name == "mtt")
    knob = METHODS[name].make.knobs[0]
    lab.driver.change(**{knob: 0.5})
    assert lab.run(1).step == 4 and getattr(lab.driver.distiller.config, knob) == 0.5
    assert lab.snapshot()._repr_png_()[:4] == b"\x89PNG"
    lab.close_run()
