"""cyclegan train: its checks, its summary, what it leaves behind, and how it ends."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from cyclegan_cli.cli.app import main
from cyclegan_cli.engine import cyclegan, watchdogs
from cyclegan_cli.engine.weights import load_generator
from cyclegan_cli.settings import GENERATORS, TrainSettings
from tests.program import SMALL, make_pictures


@pytest.fixture
def folders(tmp_path: Path) -> tuple[str, str]:
    x, y = make_pictures(tmp_path / "cats", 12, 1), make_pictures(tmp_path / "dogs", 3, 2)
    return str(x), str(y)


@pytest.fixture
def errors(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """What the last command said on stderr."""
    return lambda: capsys.readouterr().err


def test_a_training_leaves_a_style_metrics_samples_and_checkpoints(
    folders: tuple[str, str], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(
        [
            "train",
            *folders,
            *SMALL,
            "--max-steps",
            "5",
            "--log-every",
            "2steps",
            "--sample-every",
            "2steps",
            "--checkpoint-every",
            "2steps",
            "--keep",
            "2",
        ]
    )
    output = capsys.readouterr()
    assert code == 0
    assert output.out == "cats2dogs\n"
    assert "cyclegan translate" in output.err
    assert "--style cats2dogs" in output.err
    assert "cats: 11 pictures, and 1 held out" in output.err
    assert "200 epochs of 11 steps" in output.err
    run = home / "runs" / "cats2dogs"
    log = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [2, 4, 5]
    losses = {"G", "F", "cycle_X", "cycle_Y", "identity_X", "identity_Y", "D_X", "D_Y"}
    for line in log:
        assert line.keys() == losses | {"step", "epoch", "time", "lr", "pictures_per_s"}
        assert line["lr"] == 2e-4
        assert all(math.isfinite(line[name]) and line[name] > 0 for name in losses)
    kept = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert kept == [f"step-{step:09}.safetensors" for step in (4, 5)]
    sheets = sorted((run / "samples").iterdir())
    assert [sheet.name for sheet in sheets] == [f"step-{step:09}.png" for step in (2, 4, 5)]
    with Image.open(sheets[0]) as sheet:
        assert sheet.width > 6 * 32
    style = home / "styles" / "cats2dogs"
    forward, back = (load_generator(style / f"{way}.safetensors") for way in ("xy", "yx"))
    assert forward.spec.name == back.spec.name == "mobile"
    weight = "encoder.1.weight"
    assert not torch.equal(forward.state_dict()[weight], back.state_dict()[weight])


def test_show_tells_the_options_as_they_were_typed(
    folders: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    typed = ["--generator", "mobile", "--crop-size", "32", "--load-size", "36", "--max-steps", "1"]
    assert main(["train", *folders, *typed, "--no-flip", "-q"]) == 0
    capsys.readouterr()
    assert main(["pretrained", "show", "cats2dogs"]) == 0
    options = "--generator mobile --load-size 36 --crop-size 32 --no-flip --max-steps 1"
    assert f"options\t{options}\n" in capsys.readouterr().out


def test_the_style_translates(folders: tuple[str, str], tmp_path: Path) -> None:
    assert main(["train", *folders, *SMALL, "--max-steps", "1", "-q"]) == 0
    picture, out = Path(folders[0], "00.png"), tmp_path / "out.png"
    forward = ["translate", str(picture), "--style", "cats2dogs", "-o", str(out), "--gpu", "cpu"]
    assert main(forward) == 0
    with Image.open(out) as image, Image.open(picture) as original:
        assert image.size == original.size
        first = image.tobytes()
    assert main([*forward, "--reverse", "--overwrite"]) == 0
    with Image.open(out) as image:
        assert image.tobytes() != first


PATCHES = (
    *("--generator", "brush", "--crop-size", "64", "--load-size", "64", "--gpu", "cpu"),
    *("--lambda-gan", "0", "--lambda-cycle", "0", "--lambda-patch", "10", "--lambda-self", "0.8"),
    *("--samples", "1", "--log-every", "1steps", "-q"),
)


def test_a_style_of_patches_and_one_that_starts_from_it(
    folders: tuple[str, str], home: Path
) -> None:
    """The losses that are off are not missed by anything that reads or watches a training."""
    assert main(["train", *folders, *PATCHES, "--max-steps", "2", "--name", "first"]) == 0
    lines = (home / "runs/first/metrics.jsonl").read_text().splitlines()
    log = [json.loads(line) for line in lines]
    assert {"patch_X", "patch_Y", "self_X", "self_Y"} <= log[-1].keys()
    assert not {"G", "F", "D_X", "D_Y", "cycle_X", "identity_X"} & log[-1].keys()
    still = ["--name", "second", "--init", "first", "--lr", "0", "--max-steps", "1"]
    assert main(["train", *folders, *PATCHES, *still]) == 0
    for way in ("xy", "yx"):
        first, second = (
            load_generator(home / "styles" / name / f"{way}.safetensors").state_dict()
            for name in ("first", "second")
        )
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_style_goes_on_with_other_noise(
    folders: tuple[str, str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["train", *folders, *PATCHES, "--max-steps", "1", "--name", "first"]) == 0
    monkeypatch.setitem(GENERATORS, "brush", dataclasses.replace(GENERATORS["brush"], coarse=0.2))
    more = ["--init", "first", "--name", "second", "--max-steps", "1"]
    assert main(["train", *folders, *PATCHES, *more]) == 0
    spec = load_generator(home / "styles" / "second" / "xy.safetensors").spec
    assert (spec.coarse, spec.grain) == (0.2, GENERATORS["brush"].grain)


def test_a_start_that_cannot_be_is_refused_before_anything_is_made(
    folders: tuple[str, str], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *folders, *PATCHES, "--max-steps", "1", "--name", "first"]) == 0
    capsys.readouterr()
    wrong = ["--init", "first", "--generator", "mobile", "--name", "second"]
    assert main(["train", *folders, *PATCHES, *wrong]) == 2
    assert "--generator brush" in capsys.readouterr().err
    assert main(["train", *folders, *PATCHES, "--init", "fisrt", "--name", "second"]) == 2
    assert "first" in capsys.readouterr().err
    assert not (home / "runs" / "second").exists()


def test_the_same_seed_gives_the_same_style_and_another_seed_another(
    folders: tuple[str, str], home: Path
) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        options = ["--name", name, "--seed", seed, "--max-steps", "2", "-q"]
        assert main(["train", *folders, *SMALL, *options]) == 0
    a, b, c = (load_generator(home / "styles" / n / "xy.safetensors").state_dict() for n in "abc")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert any(not torch.equal(a[key], c[key]) for key in a)


def test_unreadable_pictures_are_named_and_left_out_or_refused(
    folders: tuple[str, str], errors: Callable[[], str]
) -> None:
    whole = Path(folders[0], "00.png").read_bytes()
    Path(folders[0], "broken.png").write_bytes(whole[: len(whole) // 2])
    Path(folders[0], "empty.jpg").touch()
    Path(folders[0], "notes.txt").write_text("not a picture, not counted")
    assert main(["train", *folders, *SMALL, "--dry-run"]) == 0
    said = errors()
    assert said.count("left out") == 2
    assert "broken.png" in said
    assert "empty.jpg" in said
    assert main(["train", *folders, *SMALL, "--dry-run", "--strict"]) == 2


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["{x}", "{x}"], "twice"),
        (["{x}", "{x}/../cats"], "twice"),
        (["{x}", "{x}/.."], "inside the other"),
        (["{x}", "nowhere"], "does not exist"),
        (["{x}", "{x}/00.png"], "is not a folder"),
        (["{x}", "{one}"], "1 usable picture"),
        (["{x}", "{y}", "--gpu", "7"], "no CUDA device 7"),
        (["{x}", "{y}", "--gpu", "0,1"], "no CUDA device 0"),
        (["{x}", "{y}", "--precision", "fp16"], "needs a CUDA device"),
        (["{x}", "{y}", "--precision", "fp8"], "--precision must be"),
        (["{x}", "{y}", "--generator", "vgg"], "no generator 'vgg'"),
        (["{x}", "{y}", "--gan", "wgan"], "--gan must be"),
        (["{x}", "{y}", "--epochs", "0"], "--epochs must be"),
        (["{x}", "{y}", "--decay-from", "300"], "--decay-from"),
        (["{x}", "{y}", "--crop-size", "30"], "--crop-size"),
        (["{x}", "{y}", "--crop-size", "64", "--load-size", "60"], "--load-size"),
        (["{x}", "{y}", "--checkpoint-every", "often"], "is not an interval"),
        (["{x}", "{y}", "--name", "../away"], "cannot be a name"),
        (["{x}", "{y}", "--lr", "nan"], "--lr"),
        (["{x}", "{y}", "--epochz", "3"], "--epochs"),
        (["{x}"], "Y_DIR"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    arguments: list[str],
    expected: str,
    folders: tuple[str, str],
    tmp_path: Path,
    home: Path,
    errors: Callable[[], str],
) -> None:
    one = make_pictures(tmp_path / "one", 1, 3)
    filled = [a.format(x=folders[0], y=folders[1], one=one) for a in arguments]
    assert main(["train", *filled]) == 2
    assert expected in errors()
    assert not home.exists()


def test_a_run_or_style_that_exists_is_refused(
    folders: tuple[str, str], errors: Callable[[], str], home: Path
) -> None:
    assert main(["train", *folders, *SMALL, "--max-steps", "1", "-q"]) == 0
    assert main(["train", *folders, *SMALL, "--max-steps", "1"]) == 2
    said = errors()
    assert "cyclegan resume cats2dogs" in said
    assert "--name" in said
    shutil.rmtree(home / "runs")
    assert main(["train", *folders, *SMALL, "--max-steps", "1"]) == 2
    assert "A style named 'cats2dogs' exists" in errors()


def test_too_little_disk_is_refused(
    folders: tuple[str, str], errors: Callable[[], str], monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    class Usage:
        free = 10 * 2**20

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage)
    assert main(["train", *folders, *SMALL, "--max-steps", "1"]) == 2
    assert "10.5 MB free" in errors()
    assert not home.exists()


def test_a_dry_run_checks_and_writes_nothing(
    folders: tuple[str, str], home: Path, errors: Callable[[], str]
) -> None:
    assert main(["train", *folders, *SMALL, "--dry-run"]) == 0
    said = errors()
    for word in ("memory", "disk", "device", "mobile", "cats2dogs"):
        assert word in said
    assert not home.exists()


def test_a_dry_run_is_a_doctor(
    folders: tuple[str, str], capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    x, y = map(Path, folders)
    shutil.copy(x / "03.png", x / "twin.png")
    shutil.copy(x / "05.png", y / "stray.png")
    Image.new("RGB", (30, 12), "red").save(x / "tiny.png")
    assert main(["train", *folders, *SMALL, "--dry-run"]) == 0
    output = capsys.readouterr()
    assert output.out == ""
    assert "sizes of X: smallest 30×12, middle 76×72, largest 76×72" in output.err
    assert "very few pictures" in output.err
    assert "cats/03.png  =  cats/twin.png" in output.err
    assert "cats/05.png  =  dogs/stray.png" in output.err
    assert "1 picture of cats is smaller than the crop of 64" in output.err
    assert main(["train", *folders, *SMALL, "--dry-run", "--json", "--max-steps", "9"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [finding["kind"] for finding in record["findings"]] == ["shared", "copies", "tiny"]
    assert record["findings"][2]["files"] == [[str(x / "tiny.png")]]
    assert record["x"]["sizes"]["smallest"] == [30, 12]
    assert record["steps"] == 9
    assert record["seconds"] is None
    assert not home.exists()


def test_a_training_says_in_short_what_the_doctor_found_and_how_long_it_may_take(
    folders: tuple[str, str], errors: Callable[[], str]
) -> None:
    assert main(["train", *folders, *SMALL, "--max-steps", "2", "--name", "first", "-q"]) == 0
    shutil.copy(Path(folders[0], "03.png"), Path(folders[0], "twin.png"))
    errors()
    assert main(["train", *folders, *SMALL, "--max-steps", "2"]) == 0
    said = errors()
    assert "1 picture of cats is a copy" in said
    assert "twin.png" not in said
    assert "--dry-run" in said
    assert "at the speed of run 'first'" in said


def test_the_config_file_is_read_the_line_wins_and_what_is_printed_can_be_read(
    folders: tuple[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = tmp_path / "train.toml"
    config.write_text('epochs = 40\nlambda-cycle = 5.0\ngenerator = "resnet6"\nflip = false\n')
    command = ["train", *folders, "--config", str(config), "--lambda-cycle", "10"]
    assert main([*command, "--print-config"]) == 0
    printed = capsys.readouterr().out
    for line in ("epochs = 40", "lambda-cycle = 10.0", 'generator = "resnet6"', "flip = false"):
        assert line in printed
    config.write_text(printed)
    assert main(["train", *folders, "--config", str(config), "--print-config"]) == 0
    assert capsys.readouterr().out == printed


def test_a_printed_config_has_every_option_with_its_help_and_needs_no_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--print-config"]) == 0
    lines = capsys.readouterr().out.splitlines()
    options = {field.name for field in dataclasses.fields(TrainSettings)} | {"name", "gpu"}
    unset = {"name", "max_steps", "decay_from", "lr_d", "init", "crop_range"}
    for option in options:
        begin = f"{'# ' * (option in unset)}{option.replace('_', '-')} = "
        (at,) = [number for number, line in enumerate(lines) if line.startswith(begin)]
        assert lines[at - 1].startswith("# "), option
    assert len(options) > 45
    # Also with all that is commented out, it can be read.
    whole = tmp_path / "whole.toml"
    whole.write_text("\n".join(re.sub(r"^# (?=[a-z0-9-]+ = )", "", line) for line in lines))
    assert main(["train", "--config", str(whole), "--print-config", "--json"]) == 0
    settings = json.loads(capsys.readouterr().out)
    assert (settings["max_steps"], settings["init"]) == (1000, "monet")
    assert None not in settings.values()


def test_a_config_file_sets_name_and_device_too(
    folders: tuple[str, str], tmp_path: Path, home: Path, errors: Callable[[], str]
) -> None:
    config = tmp_path / "train.toml"
    config.write_text('name = "mine"\ngpu = 7\n')
    assert main(["train", *folders, "--config", str(config), "--dry-run"]) == 2
    assert "no CUDA device 7" in errors()
    arguments = ["--config", str(config), "--gpu", "cpu", "--max-steps", "1", "-q"]
    assert main(["train", *folders, *SMALL, *arguments]) == 0
    assert (home / "runs" / "mine" / "run.json").is_file()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lamda_cycle = 3", "no option 'lamda_cycle'. Did you mean lambda_cycle?"),
        ("lamda-cycle = 3", "no option 'lamda-cycle'. Did you mean lambda-cycle?"),
        ("crop_sise = 64", "Did you mean crop_size?"),
        ("epoks = 3", "Did you mean epochs?"),
        ("[train]\nepochs = 3", "in no [table]"),
        ("crop_size = 64\ncrop-size = 64", "given twice"),
        ("crop_size = 'a'", "crop_size must be a whole number, not 'a'"),
        ("flip = 'no'", "flip must be true or false, not 'no'"),
        ("gpu = true", "gpu must be text"),
        ("generator = 'resnet'", "Did you mean resnet9 or resnet6?"),
        ("ema = 99.8", "--ema must be a number from 0 to below 1, not 99.8. Did you mean 0.998?"),
    ],
)
def test_what_is_wrong_in_a_config_file_is_named_as_it_is_spelled(
    text: str, words: str, tmp_path: Path, errors: Callable[[], str]
) -> None:
    config = tmp_path / "train.toml"
    config.write_text(text)
    assert main(["train", "--config", str(config), "--print-config"]) == 2
    assert words in errors()


@pytest.mark.parametrize(
    "text", ["epochs = ", "epoch = 3", "epochs = 'many'", "generator = 3", "batch_size = true"]
)
def test_a_wrong_config_file_is_a_usage_error(
    text: str, folders: tuple[str, str], tmp_path: Path, errors: Callable[[], str]
) -> None:
    config = tmp_path / "train.toml"
    config.write_text(text)
    assert main(["train", *folders, "--config", str(config), "--print-config"]) == 2
    assert "error" in errors()


def test_a_loss_that_is_not_finite_stops_with_the_last_good_checkpoint_named(
    folders: tuple[str, str],
    errors: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
    home: Path,
) -> None:
    step = cyclegan.CycleGAN.step
    count = 0

    def poisoned(
        self: cyclegan.CycleGAN, x: torch.Tensor, y: torch.Tensor, rate: float
    ) -> dict[str, torch.Tensor]:
        nonlocal count
        count += 1
        return step(self, x * (math.nan if count == 4 else 1), y, rate)

    monkeypatch.setattr(cyclegan.CycleGAN, "step", poisoned)
    code = main(["train", *folders, *SMALL, "--max-steps", "9", "--checkpoint-every", "3steps"])
    assert code == 1
    said = errors()
    assert "nan" in said
    assert "step-000000003.safetensors" in said
    assert "--lr" in said
    assert "cyclegan resume cats2dogs" in said
    kept = [path.name for path in (home / "runs/cats2dogs/checkpoints").iterdir()]
    assert kept == ["step-000000003.safetensors"]
    assert not (home / "styles").exists()


def test_a_warning_is_said_once_with_its_cure_and_recorded(
    folders: tuple[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    home: Path,
) -> None:
    sample = cyclegan.CycleGAN.sample

    def unchanged(
        self: cyclegan.CycleGAN, x: torch.Tensor, y: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        return sample(self, x, y) | {"G(x)": x.clone(), "F(y)": y.flip(3) * 0.5}

    monkeypatch.setattr(cyclegan.CycleGAN, "sample", unchanged)
    monkeypatch.setattr(watchdogs, "EARLY", (1, 1))
    command = ["train", *folders, *SMALL, "--max-steps", "5", "--sample-every", "1steps"]
    assert main([*command, "--log-every", "5steps", "--json"]) == 0
    output = capsys.readouterr()
    assert output.err.count("warning: step 4: G(x) hardly differs from x") == 1
    assert "→ Usual cures: a lower --lambda-identity" in output.err
    log = [
        json.loads(line)
        for line in (home / "runs/cats2dogs/metrics.jsonl").read_text().splitlines()
    ]
    warned = [line for line in log if line.get("warning", {}).get("kind") == "unchanged"]
    assert [line["step"] for line in warned] == [4]
    assert warned[0].keys() == {"step", "epoch", "time", "warning"}
    assert warned[0]["warning"].keys() == {"kind", "message", "hint"}
    assert warned[0] in [json.loads(line) for line in output.out.splitlines()]


def test_json_is_one_object_a_line_and_nothing_else(
    folders: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", *folders, *SMALL, "--max-steps", "2", "--log-every", "1steps", "--json"]
    assert main([*command, "-q"]) == 0
    output = capsys.readouterr()
    records = [json.loads(line) for line in output.out.splitlines()]
    assert [record.get("step") for record in records[:2]] == [1, 2]
    assert records[-1]["style"] == "cats2dogs"
    assert output.err == ""
