"Files from strangers: whatever the bytes, a loader gives what was written or a ValueError that names the file, and takes no absurd amount of memory."
import ast
import copy
import json
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtt_nb.data import load
from mtt_nb.distill import MTT, MTTConfig, SyntheticSet
from mtt_nb.distiller import load_checkpoint, save_checkpoint
from mtt_nb.experts import ExpertBuffer, load_tensors, record_experts, save_tensors
from mtt_nb.history import History, Recorder
from mtt_nb.models import build

FUZZ = settings(max_examples=100, deadline=None, database=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
NAMES = {"synthetic set": "distilled.safetensors", "expert": "experts/expert_0000.safetensors", "checkpoint": "checkpoint.safetensors", "history": "history.safetensors"}
every_kind = pytest.mark.parametrize("kind", NAMES)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "One file of every kind, and what reads it"
    there, data = tmp_path_factory.mktemp("fuzz"), load("digits", limit=100)
    buffer = record_experts(data, build("mlp", data.shape, 10, width=4), there / "experts", n=1, epochs=2)
    mtt = MTT(MTTConfig(syn_steps=2, expert_epochs=1, max_start_epoch=1, memory="full", iterations=3, augment="flip"), data, buffer)
    recorder = Recorder(mtt)
    for state in mtt: recorder(state)
    mtt.synthetic.save(there / NAMES["synthetic set"])
    save_checkpoint(there / NAMES["checkpoint"], mtt)
    recorder.history.save(there / NAMES["history"])
    def expert(file):
        b = ExpertBuffer(file.parent)
        return b.meta, b.accuracy.tolist(), b.trajectory(0)
    def checkpoint(file):
        before = mtt.state_dict()
        try: load_checkpoint(file, mtt)
        except ValueError:
            assert same(mtt.state_dict(), before)  # a file that is refused has changed nothing
            raise
        return mtt.state_dict()
    def synthetic(file):
        s = SyntheticSet.load(file)
        return s.images, s.labels, s.lr, s.meta, s.transform.tensors()
    def history(file):
        h = History.load(file)
        return h.info, h.planes, [vars(part) for part in (h.points, h.frames, h.accuracy)]
    readers = {"synthetic set": synthetic, "expert": expert, "checkpoint": checkpoint, "history": history}
    files = {kind: there / name for kind, name in NAMES.items()}
    return {kind: (files[kind], readers[kind], files[kind].read_bytes(), plain(readers[kind](files[kind]))) for kind in NAMES}


def plain(x):
    "Nested values with tensors as lists, to compare"
    if isinstance(x, dict): return {k: plain(v) for k, v in x.items()}
    if isinstance(x, (list, tuple)): return [plain(v) for v in x]
    return x.tolist() if hasattr(x, "tolist") else x


def same(a, b): return plain(a) == plain(b)


def tried(place, kind, raw):
    "Read these bytes as a file of this kind: the right values, or an error that names it"
    file, read, good, right = place[kind]
    file.write_bytes(raw)
    try:
        got = read(file)
    except ValueError as e: assert file.name in str(e) or file.parent.name in str(e), e
    else: return got
    finally: file.write_bytes(good)


@st.composite
def mutations(draw, size):
    "Where, what in its place, and how many bytes it replaces"
    return draw(st.integers(0, size - 1)), draw(st.binary(max_size=8)), draw(st.one_of(st.integers(0, 8), st.just(size)))


@every_kind
@FUZZ
@given(data=st.data())
def test_bytes_changed_cut_or_put_in(place, kind, data):
    good, right = place[kind][2:]
    raw = good
    for at, new, old in data.draw(st.lists(mutations(len(good)), min_size=1, max_size=3)): raw = raw[:at] + new + raw[at + old:]
    got = tried(place, kind, raw)
    assert got is None or plain(got) == right


@every_kind
@FUZZ
@given(raw=st.binary(max_size=300), header=st.booleans())
def test_any_bytes(place, kind, raw, header):
    assert tried(place, kind, struct.pack("<Q", len(raw)) + raw if header else raw) is None


LEAVES = st.one_of(st.none(), st.booleans(), st.integers(-2**70, 2**70), st.floats(), st.text(max_size=5), st.just([]), st.just({}), st.just("../../x"), st.lists(st.integers(), max_size=3))


def nodes(x, path=()):
    "The places of a nest"
    yield path
    for k, v in x.items() if isinstance(x, dict) else enumerate(x[:3]) if isinstance(x, list) else (): yield from nodes(v, (*path, k))


def replaced(x, path, value, drop):
    x = copy.deepcopy(x)
    *front, last = path
    inner = x
    for k in front: inner = inner[k]
    if drop: del inner[last]
    else: inner[last] = value
    return x


def whole(place, kind):
    "The file as it was at first, and what is in it"
    file, _, good, _ = place[kind]
    file.write_bytes(good)
    return file, *load_tensors(file, kind)


@every_kind
@FUZZ
@given(data=st.data())
def test_a_header_written_to_mislead(place, kind, data):
    "Checksums are right, and an entry is not: read as it stands where it is of no consequence, else refused; nothing else is raised"
    file, tensors, meta = whole(place, kind)
    path = data.draw(st.sampled_from([p for p in nodes(meta) if p and p[0] not in ("kind", "version")]))
    meta = replaced(meta, path, data.draw(LEAVES), data.draw(st.booleans()))
    save_tensors(file, kind, tensors, meta)
    tried(place, kind, file.read_bytes())


@every_kind
@FUZZ
@given(data=st.data())
def test_tensors_written_to_mislead(place, kind, data):
    "Of another shape or type, or left out"
    file, tensors, meta = whole(place, kind)
    name = data.draw(st.sampled_from(sorted(tensors)))
    shape, dtype = data.draw(st.lists(st.integers(0, 5), max_size=5)), data.draw(st.sampled_from([torch.float32, torch.int64, torch.uint8, torch.bool, torch.bfloat16]))
    new = data.draw(st.sampled_from([torch.zeros(shape, dtype=dtype), tensors[name].to(dtype), tensors[name][None], None]))
    save_tensors(file, kind, {k: t for k, t in (tensors | {name: new}).items() if t is not None}, meta)
    tried(place, kind, file.read_bytes())


def sparse(file, shape):
    "A file that says it holds so many numbers, and has a hole where they should be"
    size = 4 * torch.Size(shape).numel()
    header = json.dumps({"__metadata__": {"mtt_nb": "{}"}, "images": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}).encode()
    with open(file, "wb") as f:
        f.write(struct.pack("<Q", len(header)) + header)
        f.truncate(8 + len(header) + size)


def test_absurd_sizes_are_refused_before_memory_is_taken(place, tmp_path):
    file = tmp_path / "huge.safetensors"
    tensors, meta = load_tensors(place["synthetic set"][0], "synthetic set")
    save_tensors(file, "synthetic set", tensors, meta)
    with open(file, "r+b") as f: f.truncate(2**43)  # 8 TB that are not there
    with pytest.raises(ValueError, match="huge.safetensors"): SyntheticSet.load(file)
    sparse(file, [2**40, 1])
    with pytest.raises(ValueError, match="huge.safetensors"): SyntheticSet.load(file)
    raw = bytearray(place["synthetic set"][2])
    raw[:8] = struct.pack("<Q", 2**60)
    file.write_bytes(raw)
    with pytest.raises(ValueError, match="huge.safetensors is damaged"): SyntheticSet.load(file)
    for options in (dict(width=2**62), dict(width=10**6), dict(depth=10**12)):
        with pytest.raises(ValueError, match="too large|too many|too small|cannot be built"): build("convnet", (3, 32, 32), 10, **options)
    for shape in ((3, 2**40, 2**40), (10**6, 10**6, 10**6)):
        with pytest.raises(ValueError, match="too large|too many|cannot be built"): build("mlp", shape, 10)


def test_a_file_larger_than_memory_is_refused(place, tmp_path, monkeypatch):
    "With its header right, too"
    monkeypatch.setattr("mtt_nb.experts._memory", lambda: 100)
    for file, read, *_ in place.values():
        with pytest.raises(ValueError, match="fit into memory|parameters"): read(file)


def test_nothing_is_unpickled():
    "No module of the package can run what a file, or another rank, holds"
    for module in (Path(__file__).parents[1] / "mtt_nb").glob("*.py"):
        text = module.read_text()
        assert not any(word in text for word in ("pickle", "_object_list", "gather_object")), module
        for call in (n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Call) and ast.unparse(n.func) == "torch.load"):
            assert ("weights_only", "True") in [(k.arg, ast.unparse(k.value)) for k in call.keywords], module
