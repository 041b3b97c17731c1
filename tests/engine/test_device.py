"""--gpu and --precision, on machines that are only pretended."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from cyclegan_cli.engine.device import available, resolve, resolve_precision
from cyclegan_cli.errors import DeviceError

Machine = Callable[..., None]
FREE = [3, 9, 1, 70, 20, 70, 5, 8]  # GiB of eight GPUs; 3 and 5 tie


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Pretend a machine with CUDA devices of ``free`` GiB free, and perhaps an Apple GPU."""

    def pretend(free: list[int], mps: bool = False, capability: tuple[int, int] = (8, 0)) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(free))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(free))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: f"Card {int(i)}")
        monkeypatch.setattr(
            torch.cuda, "mem_get_info", lambda i: (free[int(i)] * 2**30, 80 * 2**30)
        )
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return pretend


def named(gpu: str) -> list[str]:
    return [str(device.torch) for device in resolve(gpu)]


def test_auto_takes_the_card_with_the_most_free_memory(machine: Machine) -> None:
    machine(FREE)
    assert named("auto") == ["cuda:3"]
    assert resolve("auto")[0].label == "Card 3"
    machine(FREE[::-1])
    assert named("auto") == ["cuda:2"]


def test_auto_prefers_cuda_to_mps_to_cpu(machine: Machine) -> None:
    machine([1], mps=True)
    assert named("auto") == ["cuda:0"]
    machine([], mps=True)
    assert named("auto") == ["mps"]
    machine([])
    assert named("auto") == ["cpu"]


def test_devices_by_name(machine: Machine) -> None:
    machine(FREE, mps=True)
    for index in range(8):
        assert named(str(index)) == [f"cuda:{index}"]
    assert named("cpu") == ["cpu"]
    assert named("mps") == ["mps"]
    assert named("0,1") == ["cuda:0", "cuda:1"]
    assert named("7, 0,3") == ["cuda:7", "cuda:0", "cuda:3"]
    assert named("cuda:7") == named("CUDA:7") == ["cuda:7"]
    assert named("cuda:0,cuda:1") == ["cuda:0", "cuda:1"]
    assert named("CPU") == ["cpu"]
    assert list(available()) == ["cpu", "mps", *map(str, range(8))]


@pytest.mark.parametrize(
    "gpu",
    [
        *("", " ", ",", "0,", "-1", "8", "00", "01", "0.0", "0x0", "²", "٣", "abc", "cuda:"),
        *(
            "cuda:8",
            "cuda0",
            "gpu",
            "all",
            "auto,0",
            "cuda,0",
            "0,cuda:0",
            "0,auto",
            "0,0",
            "0,1,0",
            "0, 0",
            "cpu,cpu",
        ),
        *("cpu,0", "0,mps"),
    ],
)
def test_what_is_not_there_is_an_error(machine: Machine, gpu: str) -> None:
    machine(FREE, mps=True)
    with pytest.raises(DeviceError) as caught:
        resolve(gpu)
    assert caught.value.exit_code == 2


def test_cuda_alone_is_the_card_with_the_most_free_memory(machine: Machine) -> None:
    machine(FREE, mps=True)
    assert named("cuda") == named("Cuda") == named("auto") == ["cuda:3"]


@pytest.mark.parametrize(
    ("gpu", "missing"),
    [
        ("0", "CUDA device 0"),
        ("0,1", "CUDA device 0"),
        ("1", "CUDA device 1"),
        ("cuda:0", "CUDA device 0"),
        ("cuda", "CUDA device"),
        ("mps", "device 'mps'"),
    ],
)
def test_a_missing_device_never_falls_back_to_the_cpu(
    machine: Machine, gpu: str, missing: str
) -> None:
    machine([])
    with pytest.raises(DeviceError) as caught:
        resolve(gpu)
    assert str(caught.value) == f"There is no {missing} here."
    assert "--gpu cpu" in str(caught.value.hint)
    assert "--gpu mps" not in str(caught.value.hint)


def test_an_error_lists_what_is_there(machine: Machine) -> None:
    machine([4, 2])
    with pytest.raises(DeviceError) as caught:
        resolve("2")
    hint = str(caught.value.hint)
    for part in ("--gpu 0 (Card 0)", "--gpu 1 (Card 1)", "--gpu cpu"):
        assert part in hint


def test_the_second_of_two_can_be_the_missing_one(machine: Machine) -> None:
    machine([4])
    with pytest.raises(DeviceError, match="CUDA device 1 "):
        resolve("0,1")


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [
        ((6, 1), torch.float32),
        ((7, 5), torch.float32),
        ((8, 0), torch.bfloat16),
        ((8, 9), torch.bfloat16),
        ((9, 0), torch.bfloat16),
        ((10, 0), torch.bfloat16),
    ],
)
def test_auto_precision_is_what_the_card_computes_in(
    machine: Machine, capability: tuple[int, int], dtype: torch.dtype
) -> None:
    machine([8], capability=capability)
    assert resolve_precision("auto", torch.device("cuda", 0)) == dtype


@pytest.mark.parametrize("kind", ["cpu", "mps"])
def test_precision_without_cuda(kind: str) -> None:
    device = torch.device(kind)
    assert resolve_precision("auto", device) == torch.float32
    assert resolve_precision("fp32", device) == torch.float32
    assert resolve_precision("bf16", device) == torch.bfloat16
    with pytest.raises(DeviceError, match="fp16"):
        resolve_precision("fp16", device)


def test_precision_by_name_on_cuda(machine: Machine) -> None:
    machine([8], capability=(7, 0))
    device = torch.device("cuda", 0)
    assert resolve_precision("fp16", device) == torch.float16
    assert resolve_precision("bf16", device) == torch.bfloat16
    assert resolve_precision("fp32", device) == torch.float32
