"""Checkpoints: the whole state, or a clear refusal."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from cyclegan_cli.engine import checkpoint
from cyclegan_cli.engine.cyclegan import CycleGAN
from cyclegan_cli.engine.run import Place, checkpoint_files
from cyclegan_cli.errors import CheckpointError, NonFiniteLossError, StoreError
from cyclegan_cli.files import read_safetensors_header
from cyclegan_cli.settings import GeneratorSpec, TrainSettings

TINY = GeneratorSpec(name="tiny", blocks=1, width=2, separable=True, upsample="resize")
SETTINGS = TrainSettings(generator=TINY, crop_size=32, load_size=32, history=3, keep=2)


def _batch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    x, y = torch.rand(2, 1, 3, 32, 32, generator=random) * 2 - 1
    return x, y


@pytest.fixture(scope="module")
def trained() -> CycleGAN:
    model = CycleGAN(SETTINGS)
    for step in range(5):
        model.step(*_batch(step), 2e-4)
    return model


@pytest.fixture(scope="module")
def written(trained: CycleGAN, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    return checkpoint.save(folder, trained, Place(5, 1, 2), {"G": 0.5})


def test_a_loaded_state_makes_the_same_next_step(trained: CycleGAN, written: Path) -> None:
    loaded = checkpoint.load(written)
    assert loaded.place == Place(5, 1, 2)
    assert loaded.settings == SETTINGS
    assert loaded.losses == {"G": 0.5}
    twins = [CycleGAN(SETTINGS), CycleGAN(SETTINGS)]
    for twin in twins:
        twin.load_state(loaded.tensors, loaded.plain)
        assert twin.history_X.seen == 5
        assert len(twin.history_X.state()) == 3
    states = []
    for twin in twins:
        twin.step(*_batch(99), 2e-4)
        states.append(twin.state()[0])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    before = loaded.tensors["G.encoder.1.weight"]
    assert not torch.equal(before, states[0]["G.encoder.1.weight"])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_flipped_bit_or_cut_is_noticed(written: Path, data: st.DataObject) -> None:
    whole = written.read_bytes()
    broken = bytearray(whole)
    if data.draw(st.booleans()):
        position = data.draw(st.integers(0, len(whole) - 1))
        broken[position] ^= 1 << data.draw(st.integers(0, 7))
    else:
        broken = broken[: data.draw(st.integers(0, len(whole) - 1))]
    path = written.with_name("broken.safetensors")
    path.write_bytes(broken)
    try:
        loaded = checkpoint.load(path)
    except CheckpointError:
        return
    # The header's padding and unused bytes may change without harm: then nothing else has.
    original = checkpoint.load(written)
    assert loaded.place == original.place
    assert all(torch.equal(loaded.tensors[k], v) for k, v in original.tensors.items())


def test_a_pickle_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "step-000000001.safetensors"
    torch.save({"a": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError):
        checkpoint.load(path)


def test_the_newest_few_stay(trained: CycleGAN, tmp_path: Path) -> None:
    for step in (1, 2, 10):
        checkpoint.save(tmp_path, trained, Place(step, 0, step), {})
    assert [path.name for path in checkpoint_files(tmp_path)] == [
        "step-000000010.safetensors",
        "step-000000002.safetensors",
    ]


def test_a_state_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    model = CycleGAN(SETTINGS)
    with torch.no_grad():
        model.G.encoder[1].bias[0] = math.nan
    with pytest.raises(NonFiniteLossError, match=r"G\.encoder\.1\.bias"):
        checkpoint.save(tmp_path, model, Place(1, 0, 1), {})
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_checkpoint_and_no_trace(
    trained: CycleGAN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = checkpoint.save(tmp_path, trained, Place(1, 0, 1), {})

    def full(_tensors: object, path: Path, _metadata: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(StoreError, match="No space left"):
        checkpoint.save(tmp_path, trained, Place(2, 0, 2), {})
    assert list(tmp_path.iterdir()) == [old]
    assert checkpoint.load(old).place.step == 1


def test_a_checkpoint_of_another_model_is_refused(written: Path) -> None:
    loaded = checkpoint.load(written)
    other = CycleGAN(TrainSettings(generator=GeneratorSpec(width=3, blocks=0)))
    with pytest.raises(CheckpointError, match="another model"):
        other.load_state(loaded.tensors, loaded.plain)


@pytest.mark.parametrize(
    "newer",
    [
        {"settings": {"of_a_later_version": 4}},
        {"settings": {"generator": {"attention": 4}}},
        {"place": {"step": 1, "hour": 3}},
        {"losses": None},
    ],
    ids=["setting", "generator", "place", "losses"],
)
def test_a_checkpoint_of_another_version_is_named_and_passed_over(
    newer: dict[str, object], written: Path, tmp_path: Path
) -> None:
    metadata, _ = read_safetensors_header(written)
    tensors = load_file(written)
    text = json.dumps({**json.loads(metadata["state"]), **newer})
    digest = checkpoint._digest(tensors, text)
    later = tmp_path / "step-000000009.safetensors"
    save_file(tensors, later, {**metadata, "state": text, "sha256": digest})
    shutil.copy(written, tmp_path)
    with pytest.raises(CheckpointError, match="another version") as caught:
        checkpoint.load(later)
    assert str(later) in str(caught.value)
    found, damaged = checkpoint.newest(tmp_path)
    assert found is not None
    assert found.path.name == written.name
    assert [str(later) in str(error) for error in damaged] == [True]
    (tmp_path / written.name).unlink()
    assert checkpoint.newest(tmp_path)[0] is None  # and what is wrong with each
    assert len(checkpoint.newest(tmp_path)[1]) == 1


def test_saving_never_drops_what_it_has_just_written(trained: CycleGAN, tmp_path: Path) -> None:
    for step in (8, 9):  # later ones, which could not be read
        (tmp_path / f"step-{step:09}.safetensors").write_bytes(b"damaged")
    for step in (5, 6, 7):
        assert checkpoint.save(tmp_path, trained, Place(step), {}).exists()
    kept = [path.name for path in checkpoint_files(tmp_path)]
    assert kept == [f"step-{step:09}.safetensors" for step in (9, 8, 7, 6)]
