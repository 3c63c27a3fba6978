"""Checkpoints: bit-equal round trips, and every way in which a file can be damaged, foreign or half written."""

import json
import multiprocessing
import pickle
import random
import resource
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import detrkit
from detrkit.checkpoints import load, read, save_detector, write
from detrkit.checkpoints.detector import fill
from detrkit.errors import CheckpointError, DetrkitError
from detrkit.labels import LabelSpace

pytestmark = pytest.mark.fast

NOTE = {"kind": "something", "numbers": [1, 2.5, None], "text": "é \"quoted\" \\ \n end"}  # fmt: skip
TENSORS = {
    "weight": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),
    "half": torch.arange(5).to(torch.bfloat16),
    "count": torch.tensor(7),
    "flags": torch.tensor([True, False, True]),
    "none": torch.empty(0, 4),
    "special": torch.tensor([float("nan"), float("inf"), -0.0], dtype=torch.float64),
}


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "a.safetensors"
    write(path, TENSORS, NOTE)
    return path


@pytest.fixture(scope="module")
def model():
    return detrkit.build(
        "detr_tiny", backbone="tiny(width=8)", d_model=16, dim_feedforward=16, num_queries=4, enc_layers=1,
        dec_layers=1, label_space=LabelSpace(("cat", "dog"), (3, 17)),
    ).eval()  # fmt: skip


def bits(tensor):
    return (tensor.dtype, tuple(tensor.shape), tensor.contiguous().reshape(-1).view(torch.uint8).tolist())


def assert_same_bits(tensors, others):
    assert {name: bits(t) for name, t in tensors.items()} == {name: bits(t) for name, t in others.items()}


def assert_one_line(error, path):
    assert str(error).startswith(f"{path}"), str(error)
    assert "\n" not in str(error)


# --- round trips ------------------------------------------------------------------------------------------------------


def test_tensors_and_note_come_back_to_the_bit(checkpoint):
    tensors, note = read(checkpoint)
    assert note == NOTE
    assert_same_bits(tensors, TENSORS)


def test_views_and_shared_memory_come_back(tmp_path):
    whole = torch.arange(12.0).reshape(3, 4)
    tensors = {"whole": whole, "same": whole, "part": whole[1:], "turned": whole.T, "wide": torch.ones(1).expand(5)}
    write(tmp_path / "a.safetensors", tensors, {})
    assert_same_bits(read(tmp_path / "a.safetensors")[0], tensors)


def test_nothing_at_all_comes_back(tmp_path):
    write(tmp_path / "a.safetensors", {}, {})
    assert read(tmp_path / "a.safetensors") == ({}, {})


def test_detector_comes_back_to_the_bit(model, tmp_path):
    save_detector(model, tmp_path / "a.safetensors")
    loaded = load(tmp_path / "a.safetensors")
    assert (loaded.config, loaded.label_space, loaded.training) == (model.config, model.label_space, False)
    assert_same_bits(loaded.state_dict(), model.state_dict())
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(images).logits, model(images).logits)


@pytest.mark.parametrize("names", [("best", "last"), ("best",), ("last",)])
def test_folder_gives_its_best_else_its_last(model, tmp_path, names):
    for name in names:
        save_detector(model, tmp_path / f"{name}.safetensors")
    if len(names) == 2:
        (tmp_path / "last.safetensors").write_bytes(b"damaged")
    assert_same_bits(load(tmp_path).state_dict(), model.state_dict())


def test_file_can_be_read_by_the_group_as_any_other(checkpoint):
    """Files made by the tempfile module are closed to everybody else."""
    ordinary = checkpoint.with_name("ordinary")
    ordinary.write_bytes(b"")
    assert checkpoint.stat().st_mode == ordinary.stat().st_mode


def test_writing_makes_folders_and_leaves_nothing_beside(tmp_path):
    for _ in range(2):
        write(tmp_path / "a" / "b" / "c.safetensors", TENSORS, NOTE)
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["c.safetensors"]


# --- damaged and foreign files ----------------------------------------------------------------------------------------


class Malicious:
    """Leaves a marker when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth", "a.pt", "best.safetensors"])
@pytest.mark.parametrize("how", ["pickle", "torch", "torch, old format"])
def test_malicious_pickle_is_refused_unexecuted(tmp_path, name, how):
    marker, path = tmp_path / "marker", tmp_path / name
    if how == "pickle":
        path.write_bytes(pickle.dumps(Malicious(marker)))
    else:
        torch.save({"model": Malicious(marker)}, path, _use_new_zipfile_serialization=how == "torch")
    for open_it in (read, load):
        with pytest.raises(CheckpointError) as caught:
            open_it(path)
        assert_one_line(caught.value, path)
    assert not marker.exists()
    if how == "pickle":
        pickle.loads(path.read_bytes())
        assert marker.exists(), "this pickle proves nothing"


FOREIGN = {
    "empty": b"",
    "zeros": bytes(1000),
    "page": b"<!DOCTYPE html><html><body>404 Not Found</body></html>" * 20,
    "text": b"lr = 3\n",
    "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "huge header": (2**62).to_bytes(8, "little") + b"{}",
    "zip": b"PK\x03\x04" + bytes(200),
    "list": (2).to_bytes(8, "little") + b"[]",
}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".txt", ""])
@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_what_is_no_checkpoint_is_one_line(tmp_path, content, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    for open_it in (read, load):
        with pytest.raises(CheckpointError) as caught:
            open_it(path)
        assert_one_line(caught.value, path)


def test_missing_file_folder_and_empty_folder_are_one_line(tmp_path):
    for open_it, path, sentence in [
        (read, tmp_path, "is a folder"), (load, tmp_path, "holds no checkpoint"),
        (read, tmp_path / "no", "no such checkpoint"), (load, tmp_path / "no", "no such run or checkpoint"),
    ]:  # fmt: skip
        with pytest.raises(CheckpointError, match=sentence) as caught:
            open_it(path)
        assert_one_line(caught.value, path)


def test_content_counts_and_not_the_suffix(checkpoint):
    moved = checkpoint.rename(checkpoint.with_suffix(".backup"))
    assert_same_bits(read(moved)[0], TENSORS)


def test_truncated_anywhere_is_refused(checkpoint):
    whole, generator = checkpoint.read_bytes(), random.Random(0)
    for length in sorted({0, 1, 7, 8, 9, len(whole) - 1, *generator.sample(range(len(whole)), 60)}):
        checkpoint.write_bytes(whole[:length])
        with pytest.raises(CheckpointError) as caught:
            read(checkpoint)
        assert_one_line(caught.value, checkpoint)


def test_bytes_behind_the_end_are_refused(checkpoint):
    checkpoint.write_bytes(checkpoint.read_bytes() + b"\0")
    with pytest.raises(CheckpointError):
        read(checkpoint)


def assert_flips_are_detected(path, bits):
    whole = path.read_bytes()
    for place in range(len(whole)):
        for bit in bits(place):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            with pytest.raises(CheckpointError) as caught:
                read(path)
            assert_one_line(caught.value, path)


def test_a_flipped_bit_of_any_byte_is_detected(checkpoint):
    """In the header's length, the note, names, shapes, dtypes, offsets and data."""
    assert_flips_are_detected(checkpoint, lambda place: [place % 8])


@pytest.mark.nightly
def test_every_flipped_bit_is_detected(checkpoint):
    assert_flips_are_detected(checkpoint, lambda _: range(8))


@pytest.mark.parametrize(
    ("old", "new"), [(b'"F32","shape":[3,4]', b'"I32","shape":[3,4]'), (b'"F32","shape":[3,4]', b'"F32","shape":[4,3]')]
)
def test_another_dtype_or_shape_of_the_same_bytes_is_detected(checkpoint, old, new):
    whole = checkpoint.read_bytes()
    assert whole.count(old) == 1
    checkpoint.write_bytes(whole.replace(old, new))
    with pytest.raises(CheckpointError, match="damaged"):
        read(checkpoint)


def test_flipped_byte_of_a_detector_is_detected(model, tmp_path):
    path = tmp_path / "a.safetensors"
    save_detector(model, path)
    whole = path.read_bytes()
    for place in np.linspace(0, len(whole) - 1, 20).astype(int):
        damaged = bytearray(whole)
        damaged[place] ^= 0x04
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            load(path)


@pytest.mark.parametrize("missing", ["format", "note", "sha256"])
def test_incomplete_header_is_refused(tmp_path, missing):
    path = tmp_path / "a.safetensors"
    header = {"format": "detrkit-1", "note": "{}", "sha256": "0" * 64}
    save_file({"a": torch.ones(2)}, path, {name: text for name, text in header.items() if name != missing})
    with pytest.raises(CheckpointError) as caught:
        read(path)
    assert_one_line(caught.value, path)


def test_foreign_safetensors_says_so(tmp_path):
    for metadata in (None, {"format": "pt"}):
        save_file({"model.weight": torch.ones(2)}, tmp_path / "a.safetensors", metadata)
        for open_it in (read, load):
            with pytest.raises(CheckpointError, match="safetensors, but not of detrkit") as caught:
                open_it(tmp_path / "a.safetensors")
            assert_one_line(caught.value, tmp_path / "a.safetensors")


def test_checkpoint_of_another_kind_says_which(checkpoint):
    with pytest.raises(CheckpointError, match="holds no detector; got 'something'"):
        load(checkpoint)


@pytest.mark.parametrize("changes", [{"num_classes": 5}, {"d_model": 32}, {"dec_layers": 2}, {"num_queries": 7}])
def test_weights_of_another_model_are_one_line(model, tmp_path, changes):
    path, config = tmp_path / "a.safetensors", model.config.replace(**changes)
    other = {f"model.{name}": tensor for name, tensor in detrkit.build(config).state_dict().items()}
    save_detector(model, path)
    write(path, other, read(path)[1])
    with pytest.raises(CheckpointError, match="weights do not fit the model") as caught:
        load(path)
    assert_one_line(caught.value, path)
    with pytest.raises(CheckpointError, match="weights do not fit the model"):
        fill(detrkit.build(config), model.state_dict(), path)


@pytest.mark.parametrize("note", [{"kind": "detector"}, {"kind": "detector", "detector": {"no": 1}, "label_space": {}}])
def test_note_of_another_version_is_one_line(tmp_path, note):
    path = tmp_path / "a.safetensors"
    write(path, {}, note)
    with pytest.raises(DetrkitError) as caught:
        load(path)
    assert_one_line(caught.value, path)


# --- interrupted writing ----------------------------------------------------------------------------------------------


def test_full_disk_leaves_the_old_file_and_nothing_else(checkpoint):
    before = checkpoint.read_bytes()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))
    try:
        with pytest.raises(CheckpointError) as caught:
            write(checkpoint, {"big": torch.zeros(100_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert_one_line(caught.value, checkpoint)
    size = int(str(caught.value).partition("cannot write ")[2].split()[0])
    assert 400_000 < size < 401_000
    assert checkpoint.read_bytes() == before
    assert [path.name for path in checkpoint.parent.iterdir()] == [checkpoint.name]


def test_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write") as caught:
        write(tmp_path / "file" / "a.safetensors", TENSORS, NOTE)
    assert_one_line(caught.value, tmp_path / "file" / "a.safetensors")


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_interruption_leaves_the_old_file_and_nothing_else(checkpoint, monkeypatch, error):
    def interrupt(_):
        raise error

    before = checkpoint.read_bytes()
    monkeypatch.setattr("os.fsync", interrupt)
    with pytest.raises(error):
        write(checkpoint, {}, {})
    assert checkpoint.read_bytes() == before
    assert [path.name for path in checkpoint.parent.iterdir()] == [checkpoint.name]


def save_without_end(path):
    """Save files that tell their number in every place."""
    for number in range(10**9):
        write(path, {"a": torch.full((2_000_000,), float(number))}, {"number": number})


def kill_while_saving(path, delays):
    """Numbers that the file held after each kill."""
    numbers = []
    for delay in delays:
        write(path, {"a": torch.full((1,), -1.0)}, {"number": -1})
        before = path.stat().st_mtime_ns
        saver = multiprocessing.get_context("fork").Process(target=save_without_end, args=(path,))
        saver.start()
        while path.stat().st_mtime_ns == before:
            time.sleep(0.001)
        time.sleep(delay)
        saver.kill()
        saver.join()
        tensors, note = read(path)
        assert bool((tensors["a"] == note["number"]).all())
        numbers.append(note["number"])
    return numbers


def test_killed_while_saving_still_loads(tmp_path):
    numbers = kill_while_saving(tmp_path / "a.safetensors", [0.003, 0.017, 0.031, 0.05, 0.2])
    assert min(numbers) >= 0


@pytest.mark.nightly
@pytest.mark.timeout(300)
def test_killed_twenty_times_while_saving_still_loads(tmp_path):
    generator = random.Random()
    numbers = kill_while_saving(tmp_path / "a.safetensors", [generator.uniform(0, 0.2) for _ in range(20)])
    assert min(numbers) >= 0


def test_header_is_plain_json(checkpoint):
    """The file can be looked into with any tool that reads safetensors."""
    whole = checkpoint.read_bytes()
    header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
    assert json.loads(header["__metadata__"]["note"]) == NOTE
    assert set(header) == {"__metadata__", *TENSORS}
