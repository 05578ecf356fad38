"What a run computes, against a few lines that compute it from the settings by another way; each setting must matter."
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from fastcore.test import test_close as close
from fastcore.test import test_eq as same
from mtt_nb.augment import DSA
from mtt_nb.bilevel import DD, DDConfig, LDConfig, LDRidge, real_batch, regressors, solve_weights
from mtt_nb.data import ZCA, load, seeded
from mtt_nb.distill import MTT, MTTConfig
from mtt_nb.distiller import Config, JsonLines, downhill
from mtt_nb.evaluate import cross_architecture, evaluate, evaluate_random, full_set
from mtt_nb.experts import epoch_batches, record_experts, train_epoch
from mtt_nb.features import CAFE, CAFEConfig
from mtt_nb.history import Recorder, bend
from mtt_nb.kernel import KIP, KIPConfig, centred, ntk, ridge
from mtt_nb.models import NORMS, FlatModel, build
from mtt_nb.settings import PRESETS
from mtt_nb.synthetic import random_selection
from torch import nn

data = load("digits")
model = FlatModel(build("convnet", data.shape, data.n_classes, width=8, depth=2))


def next_batch(run, n):
    "The real batch that the next step of a run will draw"
    return real_batch(data, n, torch.Generator().set_state(run.generator.get_state()))


@pytest.mark.parametrize("pool", ["avg", "max"])
def test_convnet_is_that_of_the_paper(pool):
    "Three times convolution, instance norm, ReLU, pooling; then one linear layer"
    ours, layers = build("convnet", (3, 32, 32), 10, width=8, depth=3, pool=pool), []
    for channels in (3, 8, 8):
        layers += [nn.Conv2d(channels, 8, 3, padding=1), nn.GroupNorm(8, 8), nn.ReLU(), dict(avg=nn.AvgPool2d, max=nn.MaxPool2d)[pool](2)]
    theirs = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 10))
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(4, 3, 32, 32, generator=seeded(0))
    with torch.no_grad(): close(ours(x), theirs(x), eps=1e-5)
    same([NORMS[norm](8).num_groups for norm in ("instance", "group", "layer")], [8, 4, 1])


def test_zca_is_that_of_the_training_part():
    close(load("digits", zca=True).transform.whiten, ZCA.fit(data.to_display(data.x_train)).whiten, eps=1e-5)


def test_magnitudes_are_drawn():
    dsa = DSA("color_crop_scale", mode="all", brightness=0.2, saturation=1.0, contrast=0.9, crop=0.25, scale=1.5)
    drawn = dsa.sample(4000, (1, 8, 8), seeded(0))
    for name, low, high in (("brightness", -0.1, 0.1), ("saturation", 0, 1), ("contrast", 0.9, 1.9), ("scale_x", 1 / 1.5, 1.5)):
        margin = (high - low) / 200
        assert low <= drawn[name].min() < low + margin and high - margin < drawn[name].max() <= high, name
    same(drawn["shift_x"].unique().tolist(), [-2, -1, 0, 1, 2])
    same(DSA("cutout", cutout=0.375).sample(4000, (1, 8, 8), seeded(0))["cut_x"].unique().tolist(), [*range(8)])
    middle = {k: torch.tensor([4.0]) for k in ("cut_x", "cut_y")}
    same((DSA("cutout", cutout=0.25)(torch.ones(1, 1, 8, 8), middle) == 0).sum().item(), 4)


def test_experts_see_augmented_images():
    x, y = data.x_train[:100], data.y_train[:100]
    order = torch.randperm(100, generator=seeded(0)).split(64)
    for (xb, yb), i in zip(epoch_batches(x, y, 64, DSA("flip", flip=1.0), seeded(0)), order, strict=True):
        close(xb, x[i].flip(-1), eps=1e-5)
        same(yb, y[i])


def test_loss_of_experts_side_by_side():
    "The mean over all images, although the last batch is smaller"
    thetas = torch.stack([model.init(seeded(i)) for i in range(3)])
    _, losses = train_epoch(model, thetas, data.x_train, data.y_train, 0.0, 500, None, [seeded(i) for i in range(3)])
    for theta, loss in zip(thetas, losses, strict=True): close(loss, F.cross_entropy(model(theta, data.x_train), data.y_train), eps=1e-5)


PUBLISHED = {  # N, M, T+, lr_img, lr_lr, lr_teacher, batch_syn, ZCA: as the authors gave them (sources: 06_settings)
    ("cifar10", 1): (50, 2, 2, 100, 1e-7, 0.01, None, True), ("cifar10", 10): (30, 2, 20, 100, 1e-5, 0.001, None, True),
    ("cifar10", 50): (30, 2, 40, 1000, 1e-5, 0.001, None, False),
    ("cifar100", 1): (20, 3, 20, 1000, 1e-5, 0.01, None, True), ("cifar100", 10): (20, 2, 20, 1000, 1e-5, 0.01, None, False),
    ("cifar100", 50): (80, 2, 40, 1000, 1e-5, 0.01, 125, True),
    ("tiny-imagenet", 1): (10, 2, 10, 1e4, 1e-4, 0.01, None, False), ("tiny-imagenet", 10): (20, 2, 40, 1e4, 1e-4, 0.01, 200, False),
    ("tiny-imagenet", 50): (20, 2, 40, 1e4, 1e-4, 0.01, 300, False),
    **{(name, ipc): (20, 2, 10, 1e5, 1e-6, 0.01, batch, False) for ipc, batch in ((1, None), (10, 20))
       for name in ("imagenette", "imagewoof", "imagefruit", "imageyellow", "imagemeow", "imagesquawk")}}


def test_published_presets():
    same({key for key in PRESETS if key[0] not in ("digits", "mnist", "fashion-mnist")}, set(PUBLISHED))
    depth = {"cifar10": 3, "cifar100": 3, "tiny-imagenet": 4}
    for (name, ipc), numbers in PUBLISHED.items():
        p, c = PRESETS[name, ipc], PRESETS[name, ipc].config
        same((c.syn_steps, c.expert_epochs, c.max_start_epoch, c.lr_img, c.lr_lr, c.lr_teacher, c.batch_syn, p.zca), numbers)
        same((c.iterations, c.student_momentum, c.augment, c.ipc), (5000, 0.0, "color_crop_cutout_flip_scale_rotate", ipc))
        same([p.experts[k] for k in ("n", "lr", "batch_size")], [100, 0.01, 256])
        same(p.network, dict(name="convnet", width=128, depth=depth.get(name, 5)))
        assert not {"nets", "epochs"} & set(p.evaluation)  # five networks and 1,000 epochs, the defaults


def test_step_sizes_of_all_that_is_learned():
    config, zero, one = Config(lr_img=0.5, lr_teacher=0.25, momentum=0.0), torch.zeros(2), torch.ones(2)
    after, _ = downhill(config, {"a": "lr_img", "b": "lr_teacher"}, dict(a=zero, b=zero), dict(a=one, b=one), {})
    same((after["a"].tolist(), after["b"].tolist()), ([-0.5] * 2, [-0.25] * 2))
    dd, kip = DD(DDConfig(syn_steps=3, lr_lr=1e-9), data, model), KIP(KIPConfig(learn_labels=True, lr_label=1e-9), data, model)
    rates, labels = dd.log_rates.clone(), kip.labels.clone()
    dd.step()
    kip.step()
    close(dd.log_rates, rates, eps=1e-6)
    close(kip.labels, labels, eps=1e-4)


def test_a_state_has_the_lr_of_its_step():
    close(DD(DDConfig(syn_steps=3, lr_step=0.05), data, model).step().lr, 0.005, eps=1e-8)  # a tenth of the sum, as of 21_bilevel


def test_ridge_labels():
    run = LDRidge(LDConfig(lr_inner=0.2, lr_label=0.02, blend=0.3, reg=0.5, batch_real=100), data, model)
    weights, scale = torch.zeros_like(run.weights), torch.tensor(10.0)
    for _ in range(3):
        (x, y), theta, phi = next_batch(run, 100), run.theta, regressors(model, run.theta, run.images)
        weights = 0.7 * weights + 0.3 * solve_weights(phi, run.labels, 0.5)
        loss = F.cross_entropy(scale * regressors(model, theta, x) @ weights, y)
        close(run.step().loss, loss.item(), eps=1e-5)
        s = scale.clone().requires_grad_()  # the network's step comes after that of the labels
        scale = scale - 0.2 * torch.autograd.grad(F.cross_entropy(s * phi @ weights, run.labels), s)[0]
        close(run.scale, scale, eps=1e-5)


def test_kip_uses_its_depth_and_ridge():
    run = KIP(KIPConfig(depth=3, reg=0.1, batch_real=200), data, model)
    (x, y), s = next_batch(run, 200), run.images.double()
    predicted = ntk(x.double(), s, 3) @ ridge(ntk(s, s, 3), centred(run.labels, 10), 0.1)
    close(run.step().loss, (centred(y, 10) - predicted).square().mean().item() / 2, eps=1e-9)


def test_cafe_trains_on_where_accuracy_falls():
    run, asked, trained = CAFE(CAFEConfig(batch_real=8, inner_change=0.05, inner_epochs=4), data, model), iter([0.5, 0.3]), []
    run.query, run.trained = lambda: torch.tensor(next(asked)), lambda theta, n: trained.append(n) or theta
    run.after_step()
    same(trained, [1])  # one epoch moved it by more than 0.05, downwards


def test_cafe_weighs_its_second_loss():
    none, once, thrice = (CAFE(CAFEConfig(batch_real=8, discrimination=w), data, model).step().loss for w in (0.0, 1.0, 3.0))
    assert none < once
    close((thrice - none) / (once - none), 3, eps=1e-3)


def test_baselines():
    dsa = DSA("crop")
    options, few = dict(network=model.spec, augment=dsa, lr=0.05), dict(nets=1, epochs=20, seed=4)
    full = full_set(data, network=model.spec, augment=dsa)
    same((repr(full.augment), full.meta["network"]), (repr(dsa), model.spec))
    random = random_selection(data, 1, **options, seed=4)
    same(evaluate_random(data, 1, **options, **few).accuracies, evaluate(random, data, **few).accuracies)
    few = dict(nets=2, epochs=3, split="test")
    same(cross_architecture(random, data, ["convnet"], **few)["convnet"], evaluate(random, data, **few))


@pytest.fixture(scope="module")
def mtt(tmp_path_factory):
    buffer = record_experts(data, model, tmp_path_factory.mktemp("experts"), n=2, epochs=6, lr=0.05, batch_size=256)
    return lambda **settings: MTT(MTTConfig(**dict(syn_steps=3, max_start_epoch=4, lr_img=10, lr_teacher=0.05) | settings), data, buffer)


def test_log_and_history_say_what_the_state_says(mtt, tmp_path):
    run, log = mtt(), JsonLines(tmp_path / "log.jsonl")
    recorder, state = Recorder(run), run.step()
    log(state)
    recorder(state)
    line, = log.read(log.path)
    same((line["step"], line["loss"], line["lr"]), (1, state.loss, state.lr))
    same(tuple(recorder.history.points[0]), (1, state.loss, state.lr))
    same(recorder.history.frames[0]["lr"], state.lr)


def test_another_segment_starts_and_ends_elsewhere(mtt):
    run = mtt()
    state = run.step()
    other = run.buffer.at(1 - state.segment.expert, 3, 2)
    loss, path, _ = bend(run, state, state.images, other)
    same(path[0], other.start)
    close(loss, ((path[-1] - other.target).square().sum() / (other.start - other.target).square().sum()).item(), eps=1e-5)


def test_path_is_that_of_the_first_segment(mtt):
    with mock.patch.dict("mtt_nb.models.TOGETHER", cpu=0): state = mtt(segments_per_step=3).step()  # one by one
    same(state.path[0], state.segment.start)
