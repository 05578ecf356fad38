"The presets name data sets that there are; and CIFAR-10 on a CPU, where its files are"
import pytest

from mtt_nb.augment import DSA
from mtt_nb.data import load
from mtt_nb.datasets import TORCHVISION, data_root
from mtt_nb.distill import MTT, MTTConfig
from mtt_nb.evaluate import evaluate
from mtt_nb.experts import record_experts
from mtt_nb.models import build
from mtt_nb.published import PUBLISHED
from mtt_nb.settings import PRESETS
from mtt_nb.synthetic import random_selection


def test_load_knows_the_data_of_every_preset_and_published_number():
    with pytest.raises(ValueError, match="known are") as error: load("no such data")
    known = str(error.value).split("known are ")[1].split(";")[0].split(", ")
    names = {data for data, _ in PRESETS} | {data for _, data, _ in PUBLISHED}
    assert names <= set(known), f"load does not know {names - set(known)}"


@pytest.mark.slow
def test_cifar10_on_a_cpu(tmp_path):
    "The whole way on real files, whitened, with a small network: the loss falls, and ten images teach more than ten real ones"
    there = data_root() / TORCHVISION["cifar10"][1]
    if not there.exists(): pytest.skip(f"no CIFAR-10 at {there}: set MTT_NB_DATA to the folder that holds it")
    data, dsa = load("cifar10", zca=True, limit=5000), DSA()
    assert len(data.x_test) == 10_000 and data.shape == (3, 32, 32) and "airplane" in data.classes
    network = build("convnet", data.shape, data.n_classes, width=32, depth=3)
    buffer = record_experts(data, network, tmp_path, n=4, epochs=3, lr=0.05, batch_size=128, augment=dsa)
    config = MTTConfig(ipc=1, iterations=80, syn_steps=10, expert_epochs=2, max_start_epoch=2, lr_img=300, lr_lr=1e-4, lr_teacher=0.05,
                       augment=dsa.strategy, memory="full")
    mtt = MTT(config, data, buffer)
    losses = [state.loss for state in mtt]
    first, last = sum(losses[:20]) / 20, sum(losses[-20:]) / 20
    options = dict(nets=3, epochs=200, split="test")
    distilled = evaluate(mtt.synthetic, data, **options)
    real = evaluate(random_selection(data, 1, network=network.spec, augment=dsa, lr=mtt.synthetic.lr), data, **options)
    print(f"experts {buffer.accuracy[:, -1].mean():.3f}, loss {first:.3f} to {last:.3f}, distilled {distilled}, random {real}")
    assert last < 0.9 * first
    assert distilled.mean > 0.15 and distilled.mean > real.mean + 0.03
