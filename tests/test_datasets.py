"Data sets from files: memory, the decoded cache, and everything that can be wrong with a folder. All of them are made here, small."
import hashlib
import multiprocessing
import os
import pickle
import resource
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets as tv

from mtt_nb.data import ZCA, Raw, load, make_data
from mtt_nb.folders import class_files, decode, decoded, reporter


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    "No test touches the user's own cache"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MTT_NB_DATA", str(tmp_path / "data"))
    return tmp_path / "home"


def tree(path, classes=("cat", "dog"), n=6, size=(20, 16), seed=0):
    "Folders of noise"
    rng = np.random.default_rng(seed)
    for c in classes:
        (path / c).mkdir(parents=True)
        for i in range(n): Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8)).save(path / c / f"{i}.png")
    return path


def cache(root): return sorted(p.name for p in (root / "decoded").glob("*"))


# The torchvision sets

@pytest.fixture
def cifar(tmp_path, monkeypatch):
    "A CIFAR-10 of noise in the published format, with checksums to match; its images"
    folder, sums = tmp_path / "data" / "cifar-10-batches-py", {}
    folder.mkdir(parents=True)
    x = np.random.default_rng(0).integers(0, 256, (120, 3, 32, 32), np.uint8)
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    contents = {n: {b"data": x[20 * i:20 * i + 20].reshape(20, -1), b"labels": list(range(10)) * 2} for i, n in enumerate(names)}
    contents = {n: {k.decode(): v for k, v in c.items()} for n, c in contents.items()}
    for name, content in (contents | {"batches.meta": {"label_names": list("abcdefghij")}}).items():
        (folder / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(tv.CIFAR10, "train_list", [[n, sums[n]] for n in names[:5]])
    monkeypatch.setattr(tv.CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(tv.CIFAR10, "meta", tv.CIFAR10.meta | {"md5": sums["batches.meta"]})
    return folder, x


def test_cifar_pixels_and_labels(cifar):
    folder, x = cifar
    data = load("cifar10", val_fraction=0)
    images = (data.to_display(data.x_test) * 255).round().byte().numpy()
    assert (images == x[100:]).all() and data.y_test.tolist() == list(range(10)) * 2 and data.classes == tuple("abcdefghij")
    found = {bytes((row * 255).round().byte().numpy()) for row in data.to_display(data.x_train)}
    assert found == {bytes(row) for row in x[:100]}


def test_wrong_checksum_names_the_file(cifar):
    folder, _ = cifar
    raw = bytearray((folder / "data_batch_3").read_bytes())
    raw[2000] ^= 1
    (folder / "data_batch_3").write_bytes(raw)
    with pytest.raises(ValueError, match=r"damaged in .*cifar-10-batches-py: data_batch_3 \(.*fetch it again"): load("cifar10")
    (folder / "data_batch_3").unlink()
    with pytest.raises(FileNotFoundError, match="no cifar10 in .*: put data_batch_3 into .*cifar-10-batches-py.*fetch"): load("cifar10")


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "svhn", "cifar10", "cifar100", "tiny-imagenet", "imagenette", "imagesquawk"])
def test_missing_data_sets_say_what_goes_where(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no {name} in {tmp_path / 'data'}: (put|unpack) .*MTT_NB_DATA"): load(name)
    (tmp_path / "data").write_text("a file")
    with pytest.raises(ValueError, match="is a file"): load(name)


def test_unknown_name_lists_those_there_are():
    with pytest.raises(ValueError, match="unknown data set 'imagenet2': known are .*cifar10.*folder.*imagesquawk.*tiny-imagenet"): load("imagenet2")


# Memory and whitening

def test_one_copy_in_memory():
    "Beside the bytes that come in and the float32 arrays that go out, little is held at any time"
    code = """
import threading, time, numpy as np
from mtt_nb.data import Raw, make_data
def now(): return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("RssAnon")) / 1024
rng = np.random.default_rng(0)
x = rng.integers(0, 256, (9000, 3, 64, 64), np.uint8)
raw = Raw(x[:8000], np.arange(8000) % 10, x[8000:], np.arange(1000) % 10, tuple("abcdefghij"))
make_data("warm", Raw(x[:100], np.arange(100) % 10, x[:50], np.arange(50) % 10, tuple("abcdefghij")))
base, peak, run = now(), [0], True
def watch():
    while run: peak[0] = max(peak[0], now()); time.sleep(0.002)
watcher = threading.Thread(target=watch); watcher.start()
data = make_data("noise", raw)
run = False; watcher.join()
print((peak[0] - base) / (x.size * 4 / 2**20))
"""
    if not os.path.exists("/proc/self/status"): pytest.skip("needs Linux")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 1 <= float(done.stdout) < 1.4, done.stdout  # of the float32 arrays


def test_zca_is_what_an_svd_of_the_images_gives():
    g = torch.Generator().manual_seed(0)
    x = (torch.rand(900, 3, 6, 6, generator=g) + torch.rand(900, 3, 1, 1, generator=g)) / 2
    zca = ZCA.fit(x)
    table = x.double().flatten(1).numpy()
    u, d, vt = np.linalg.svd(table - table.mean(0), full_matrices=False)
    white = u * (d / np.sqrt(d**2 / 899 + 0.1)) @ vt
    assert np.abs(zca(x).flatten(1).numpy() - white).max() < 1e-5
    assert (zca.inverse(zca(x)) - x).abs().max() < 1e-5
    assert np.abs(zca.whiten.double().numpy() @ zca.colour.double().numpy() - np.eye(108)).max() < 1e-5
    data = make_data("x", Raw(x, torch.arange(900) % 3, x[:9], torch.arange(9) % 3, tuple("abc")), zca=True)
    assert (data.to_display(data.x_test) - x[:9]).abs().max() < 1e-5


# The decoded cache

def test_mapped_images_are_those_of_the_files(tmp_path):
    files, labels = class_files(tree(tmp_path / "t", n=700, size=(6, 6)), ["cat", "dog"])  # more than one block
    x = decoded("t", files, tmp_path / "t")
    assert (x.numpy() == np.stack([decode(f) for f in files])).all() and x.shape == (1400, 3, 6, 6)
    before = cache(tmp_path / "data")
    assert torch.equal(decoded("t", files, tmp_path / "t", progress=lambda *_: pytest.fail("decoded again")), x)
    Image.new("RGB", (6, 6), "red").save(files[0])
    assert (decoded("t", files, tmp_path / "t")[0, 0] == 255).all() and len(cache(tmp_path / "data")) == len(before) + 1


def test_damaged_cache_is_made_anew(tmp_path):
    root = tree(tmp_path / "t")
    before = load("folder", root=root, size=8, val_fraction=0).fingerprint
    for file in (tmp_path / "data" / "decoded").iterdir(): file.write_bytes(file.read_bytes()[:-1])
    assert load("folder", root=root, size=8, val_fraction=0).fingerprint == before
    for file in (tmp_path / "data" / "decoded").iterdir(): file.write_bytes(b"")
    assert load("folder", root=root, size=8, val_fraction=0).fingerprint == before


def _load_at_once(root, barrier, queue):
    barrier.wait(60)
    queue.put(load("folder", root=root, size=16, val_fraction=0).fingerprint)


def test_two_processes_build_one_cache(tmp_path):
    root, context = tree(tmp_path / "t", n=300), multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(2), context.Queue()
    both = [context.Process(target=_load_at_once, args=(root, barrier, queue)) for _ in range(2)]
    for p in both: p.start()
    prints = {queue.get(timeout=120) for _ in both}
    for p in both: p.join(60)
    assert [p.exitcode for p in both] == [0, 0] and len(prints) == 1
    assert len(cache(tmp_path / "data")) == 2 and all(n.endswith(".npy") for n in cache(tmp_path / "data"))
    assert load("folder", root=root, size=16, val_fraction=0).fingerprint in prints


def test_interrupted_build_leaves_nothing(tmp_path):
    files, _ = class_files(tree(tmp_path / "t", n=1100, size=(4, 4)), ["cat", "dog"])
    def stop(done, total): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): decoded("t", files, tmp_path / "t", progress=stop)
    assert cache(tmp_path / "data") == []


def test_killed_build_is_taken_up_and_tidied(tmp_path):
    files, _ = class_files(tree(tmp_path / "t", n=1100, size=(4, 4)), ["cat", "dog"])
    code = f"""
import os, signal
from pathlib import Path
from mtt_nb.folders import class_files, decoded
base = Path({str(tmp_path / 't')!r})
decoded("t", class_files(base, ["cat", "dog"])[0], base, progress=lambda *_: os.kill(os.getpid(), signal.SIGKILL))
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    [left] = cache(tmp_path / "data")
    assert left.endswith(".partial")
    assert decoded("t", files, tmp_path / "t").shape == (2200, 3, 4, 4)
    assert left in cache(tmp_path / "data")  # it may be another program's that still writes
    os.utime(tmp_path / "data" / "decoded" / left, (time.time() - 4000,) * 2)
    decoded("t", files[:5], tmp_path / "t")
    assert left not in cache(tmp_path / "data") and len(cache(tmp_path / "data")) == 2


def test_full_disk_says_so(tmp_path):
    files, _ = class_files(tree(tmp_path / "t", n=40), ["cat", "dog"])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))  # no file may grow larger
    try:
        with pytest.raises(OSError, match="could not write .*npy: .*Nothing was changed: free space"): decoded("t", files, tmp_path / "t")
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert cache(tmp_path / "data") == []


@contextmanager
def closed(*folders):
    "As a user who may not write in these folders; root may write everywhere, so it steps down"
    for f in folders: os.chmod(f, 0o555)
    root = os.geteuid() == 0
    if root: os.seteuid(65534)
    try: yield
    finally:
        if root: os.seteuid(0)
        for f in folders: os.chmod(f, 0o755)


def test_read_only_root(monkeypatch):
    "What is decoded goes to the user's cache; what is decoded there already is used"
    with tempfile.TemporaryDirectory() as there:  # not in tmp_path, which is closed to other users
        shared, home = Path(there, "shared"), Path(there, "home")
        os.chmod(there, 0o755)
        home.mkdir(); os.chmod(home, 0o777)
        monkeypatch.setenv("HOME", str(home))
        monkeypatch.setenv("MTT_NB_DATA", str(shared))
        shared.mkdir()
        root = tree(Path(there, "t"))
        with closed(shared): first = load("folder", root=root, size=8, val_fraction=0)
        assert not (shared / "decoded").exists() and len(cache(home / ".cache" / "mtt_nb")) == 2
        teacher = load("folder", root=root, size=9, val_fraction=0)
        monkeypatch.setenv("HOME", str(shared))  # closed as well
        assert len(cache(shared)) == 2
        with closed(shared, shared / "decoded"):
            assert load("folder", root=root, size=9, val_fraction=0).fingerprint == teacher.fingerprint
            with pytest.raises(OSError, match="cannot write in .* or .*: set MTT_NB_DATA"): load("folder", root=root, size=10)
        assert first.fingerprint != teacher.fingerprint


def test_progress_is_sparing(capsys):
    quiet, loud = reporter("x"), reporter("photos", every=0)
    quiet(10, 100); loud(20, 100)
    assert capsys.readouterr().err.splitlines() == ["photos: 20 of 100 images decoded, once for all; 0 s to go"]


# Folders that are not what they should be

def test_one_class_or_none(tmp_path):
    with pytest.raises(ValueError, match="one class, cat: "): load("folder", root=tree(tmp_path / "one", ["cat"]))
    with pytest.raises(ValueError, match="no class folders: "): load("folder", root=tmp_path / "one" / "cat")


def test_empty_class(tmp_path):
    root = tree(tmp_path / "t")
    (root / "emu").mkdir()
    (root / "emu" / "emu.txt").write_text("no image")
    with pytest.raises(ValueError, match="no images of emu in .*t: every class needs"): load("folder", root=root, size=8)


def test_sizes_must_agree_or_be_given(tmp_path):
    root = tree(tmp_path / "t", size=(20, 20))
    assert load("folder", root=root, val_fraction=0).shape == (3, 20, 20)
    Image.new("RGB", (30, 21)).save(root / "cat" / "0.png")
    with pytest.raises(ValueError, match=r"different sizes: .*\.png has .* pixels, .*size=64"): load("folder", root=root)
    assert load("folder", root=root, size=16, val_fraction=0).shape == (3, 16, 16)
    for size in (0, -4):
        with pytest.raises(ValueError, match=f"size {size}: must be"): load("folder", root=root, size=size)


def test_all_damaged_files_are_named(tmp_path):
    root = tree(tmp_path / "t", n=10)
    whole = (root / "cat" / "3.png").read_bytes()
    (root / "cat" / "3.png").write_bytes(whole[: len(whole) // 2])
    (root / "dog" / "7.png").write_bytes(b"")
    (root / "train").mkdir()
    for c in ("cat", "dog"): (root / c).rename(root / "train" / c)
    tree(root / "test", n=1)
    with pytest.raises(ValueError, match=r"2 of 20 images cannot be read: .*cat.3\.png .*dog.7\.png .*restore or remove"): load("folder", root=root, size=8)
    assert cache(tmp_path / "data") == []
    (root / "train" / "cat" / "0.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"cat.0\.png cannot be read"): load("folder", root=root)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_kind_of_file_among_colour_files(tmp_path, mode):
    "A plain colour comes out as itself, whatever the file stores it as"
    root, white = tree(tmp_path / "t", size=(20, 20)), 65535 if mode == "I;16" else "white"
    plain = Image.new("RGB", (31, 20), "white").convert(mode) if mode != "I;16" else Image.new(mode, (31, 20), white)
    plain.save(root / "cat" / ("0.tif" if mode in ("CMYK", "I;16") else "00.png"))
    data = load("folder", root=root, size=20, val_fraction=0)
    images = data.to_display(torch.cat([data.x_train, data.x_test]))
    assert data.shape == (3, 20, 20) and (images > 0.999).flatten(1).all(1).sum() == 1


def test_eight_bits_in_a_32_bit_file(tmp_path):
    "They are refused, not read as the upper half of 16 bits, which would be black; a dark image of 16 bits is none of them"
    dark = np.arange(64).reshape(8, 8)
    for name, numbers in (("low", dark.astype(np.int32)), ("high", 1000 * dark.astype(np.int32)), ("black", 0 * dark.astype(np.int32)),
                          ("dark", dark.astype(np.uint16))):
        Image.fromarray(numbers).save(tmp_path / f"{name}.tif")
    with pytest.raises(ValueError, match="8 bits in a 32-bit file: convert it"): decode(tmp_path / "low.tif")
    assert [decode(tmp_path / f"{name}.tif").max() for name in ("high", "black", "dark")] == [63000 >> 8, 0, 0]


def test_grey_folder_has_one_channel(tmp_path):
    root = tree(tmp_path / "t")
    for f in class_files(root, ["cat", "dog"])[0]: Image.open(f).convert("L").save(f)
    assert load("folder", root=root, size=8, val_fraction=0).shape == (1, 8, 8)


def test_options_load_the_same_again(tmp_path):
    root = tree(tmp_path / "t", n=20)
    data = load("folder", root=root, size=8, seed=3, limit=20)
    assert load(data.name, root, **data.options).fingerprint == data.fingerprint
    with pytest.raises(ValueError, match="size 8: the images of digits have a fixed size"): load("digits", size=8)
