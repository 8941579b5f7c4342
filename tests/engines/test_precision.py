"""What a network computes in: asked for, refused, settled on; no device is needed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segcli.engines import choose, openvino_engine, precision, table, torch_cuda, torch_devices, torch_engine
from segcli.engines.choose import open_engine
from segcli.engines.onnx_providers import provider_for
from segcli.engines.precision import native_bfloat16, on_cpu, settled
from segcli.errors import EngineError
from segcli.models.card import ModelCard
from segcli.results import recorded

H200 = dict.fromkeys(("float32", "tf32", "bfloat16", "float16"), "")
T4 = {word: torch_cuda.without(word, (7, 5)) for word in H200}


def native(monkeypatch: pytest.MonkeyPatch, *, there: bool) -> None:
    monkeypatch.setattr(precision, "native_bfloat16", lambda: there)


@pytest.mark.parametrize(
    ("asked", "half", "there", "device", "wanted"),
    [
        ("auto", None, H200, "cuda:0", "float16"),
        ("auto", True, H200, "cuda:0", "float16"),
        ("auto", False, H200, "cuda:0", "float32"),
        ("auto", "bfloat16", H200, "cuda:0", "bfloat16"),
        ("auto", "bfloat16", T4, "cuda:0", "float32"),  # nobody knows whether float16 keeps its labels
        ("auto", None, {"float32": ""}, "cuda:0", "float32"),  # ONNX Runtime, an engine of a package
        ("float16", False, H200, "cuda:0", "float16"),  # what is named is done
        ("tf32", None, H200, "cuda:0", "tf32"),
        ("fast", None, H200, "cuda:0", "float16"),
        ("fast", False, H200, "cuda:0", "float32"),
    ],
)
def test_auto_is_half_precision_on_cuda_unless_the_card_forbids_it(
    card: ModelCard, asked: str, half: Any, there: dict[str, str], device: str, wanted: str
) -> None:
    assert settled(asked, [replace(card, half=half)], there, "torch", device) == wanted


def test_one_member_that_forbids_half_precision_forbids_it_for_all(card: ModelCard) -> None:
    assert settled("auto", [card, replace(card, half=False)], H200, "torch", "cuda:0") == "float32"


@pytest.mark.parametrize("there", [False, True])
def test_on_a_processor_auto_is_float32_and_fast_bfloat16_only_where_it_has_it(
    card: ModelCard, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    native(monkeypatch, there=there)
    assert settled("auto", [card], on_cpu(), "torch", "cpu") == "float32"
    assert settled("fast", [card], on_cpu(), "torch", "cpu") == ("bfloat16" if there else "float32")
    assert settled("fast", [replace(card, half=False)], on_cpu(), "torch", "cpu") == "float32"


@pytest.mark.parametrize(
    ("engine", "asked", "words"),
    [
        ("torch", "bfloat16", "--precision bfloat16: cpu has no AVX512-BF16 and no AMX"),
        ("openvino", "bfloat16", "--precision bfloat16: cpu has no AVX512-BF16 and no AMX"),
        ("onnx", "bfloat16", "--precision bfloat16: ONNX Runtime does not compute in it"),
        ("torch", "float16", "--precision float16: float16 is for GPUs"),
        ("onnx", "tf32", "--precision tf32: tf32 is for GPUs"),
    ],
)
def test_a_precision_that_is_not_there_is_refused_with_the_reason(
    card: ModelCard, monkeypatch: pytest.MonkeyPatch, engine: str, asked: str, words: str
) -> None:
    native(monkeypatch, there=False)
    with pytest.raises(EngineError, match=words):
        open_engine(card, engine=engine, device="cpu", precision=asked)


def test_auto_takes_the_engine_that_computes_in_the_precision_that_was_named(
    card: ModelCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    native(monkeypatch, there=True)
    assert choose.choose(card, "auto", "cpu", "bfloat16").spec.name == "openvino"
    monkeypatch.setattr(choose, "installed", lambda: [table.engines()[name] for name in ("onnx", "torch")])
    assert choose.choose(card, "auto", "cpu").spec.name == "onnx"
    opened = open_engine(card, device="cpu", precision="bfloat16")
    assert (opened.engine.name, opened.engine.precision) == ("torch cpu", "bfloat16")
    assert opened.reason == "it computes in bfloat16"
    native(monkeypatch, there=False)
    with pytest.raises(EngineError, match="--precision bfloat16"):
        open_engine(card, device="cpu", precision="bfloat16")


def test_6_8_auto_takes_the_engine_that_can_use_the_device_that_was_named(
    card: ModelCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "driver_devices", lambda: 1)
    monkeypatch.setattr(torch_cuda.torch.version, "cuda", None)  # a torch for the CPU
    with pytest.raises(EngineError, match="this torch cannot use CUDA: it is built for the CPU"):
        choose.choose(card, "auto", "cuda")
    onnx = replace(table.engines()["onnx"], unusable=lambda device: None)
    monkeypatch.setattr(choose, "installed", lambda: [table.engines()["torch"], onnx])
    chosen = choose.choose(card, "auto", "cuda")
    assert (chosen.spec.name, chosen.device) == ("onnx", "cuda:0")
    assert chosen.reason == "the device was named, and this torch cannot use CUDA: it is built for the CPU"
    assert choose.choose(card, "auto", "auto").device == "cpu"


def test_a_device_too_old_for_a_precision_is_named_with_its_capability(card: ModelCard) -> None:
    with pytest.raises(EngineError, match=r"cuda:0 has compute capability 7\.5, and it takes 8\.0") as refusal:
        settled("bfloat16", [card], T4, "torch", "cuda:0")
    assert refusal.value.hint == "on cuda:0 there is float32 or float16"


@pytest.mark.parametrize(
    ("flags", "wanted"), [("fpu avx512f avx512_bf16", True), ("fpu amx_bf16 amx_tile", True), ("fpu avx2", False)]
)
def test_native_bfloat16_is_a_flag_of_the_processor(tmp_path: Path, flags: str, wanted: bool) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nmodel name\t: avx512_bf16 in words\nflags\t\t: {flags}\n")
    assert native_bfloat16(tmp_path / "cpuinfo") is wanted
    assert native_bfloat16(tmp_path / "nothing") is False


@pytest.mark.slow
def test_torch_on_a_processor_that_has_bfloat16_computes_in_it_and_says_so(
    card: ModelCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    native(monkeypatch, there=True)
    x = np.random.default_rng(0).standard_normal((2, 1, 32, 32, 32)).astype(np.float32)
    wanted = open_engine(card, engine="torch", device="cpu").engine.run(x)
    engine = open_engine(card, engine="torch", device="cpu", precision="bfloat16").engine
    found = engine.run(x)
    assert (engine.precision, found.dtype) == ("bfloat16", np.float32)
    assert 0 < np.linalg.norm(found - wanted) < 0.05 * np.linalg.norm(wanted)


def test_openvino_is_told_the_precision_and_float32_is_never_its_own_choice(
    card: ModelCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    native(monkeypatch, there=True)
    seen = []
    plain = openvino_engine.OpenVINOEngine._settings
    monkeypatch.setattr(
        openvino_engine.OpenVINOEngine, "_settings", lambda self: seen.append(plain(self)) or plain(self)
    )
    for asked in ("auto", "bfloat16"):
        assert open_engine(card, engine="openvino", precision=asked).engine.precision in ("float32", "bfloat16")
    assert [settings["INFERENCE_PRECISION_HINT"] for settings in seen] == ["f32", "bf16"]


def test_onnx_runtime_on_cuda_uses_tf32_only_when_it_was_named() -> None:
    for asked, wanted in (("float32", "0"), ("tf32", "1")):
        assert provider_for("cuda:0", None, asked)[1]["use_tf32"] == wanted


def test_torch_on_cuda_gets_the_precision_that_was_settled(card: ModelCard, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Seen(torch_devices.TorchCPU):
        def __init__(self, network: Any, *rest: Any, precision: str, **how: Any) -> None:
            seen.append(precision)
            super().__init__(network, threads=1, batch=1)

    monkeypatch.setattr(choose, "driver_devices", lambda: 1)
    monkeypatch.setattr(torch_cuda, "unusable", lambda device: None)
    monkeypatch.setattr(torch_devices, "TorchDevice", Seen)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    for asked in ("auto", "tf32"):
        open_engine(card, device="cuda:0", precision=asked)
    open_engine(replace(card, half=False), device="cuda:0")
    assert seen == ["float16", "tf32", "float32"]
    assert torch_engine.ENGINE.precisions("cuda:0") == H200


# ---- records of before


def done(folder: Path, options: dict[str, Any], ran: str, asked: str, runs: str) -> bool:
    labels, written = folder / "a_seg.nii.gz", folder / "a_seg.json"
    labels.write_bytes(b"labels")
    facts = {
        "segcli_record": 1,
        "options": options,
        "labels": {"sha256": recorded.file_sha256(labels)},
        "engine": {"precision": ran},
    }
    written.write_text(json.dumps(facts))
    key = {"options": {"overlap": None, "precision": asked}}
    return recorded.is_done(recorded.read_record(written), labels, key, {"overlap": None, "precision": "auto"}, runs)


@pytest.mark.parametrize(
    ("half", "ran", "asked", "runs", "wanted"),
    [
        (False, "float32", "auto", "float32", True),  # on a processor auto is float32
        (False, "float32", "float32", "float32", True),
        (False, "float32", "auto", "float16", False),  # on CUDA it is not
        (True, "float16", "auto", "float16", True),
        (True, "float16", "float16", "float16", True),
        (True, "float32", "auto", "float32", True),  # --half on a processor
        (True, "float16", "auto", "float32", False),
    ],
)
def test_a_record_of_version_0_1_counts_where_its_labels_would_be_the_same(
    tmp_path: Path, half: bool, ran: str, asked: str, runs: str, wanted: bool
) -> None:
    assert done(tmp_path, {"overlap": None, "half": half}, ran, asked, runs) is wanted


@pytest.mark.parametrize(
    ("stated", "ran", "asked", "runs", "wanted"),
    [
        ("auto", "float32", "float32", "float32", True),
        ("float32", "float32", "auto", "float32", True),
        ("auto", "float16", "auto", "float32", True),  # a batch may go on on another device
        ("auto", "float16", "float32", "float32", False),
        ("float32", "float32", "bfloat16", "bfloat16", False),
    ],
)
def test_a_record_counts_by_the_word_that_asked_or_by_what_ran(
    tmp_path: Path, stated: str, ran: str, asked: str, runs: str, wanted: bool
) -> None:
    assert done(tmp_path, {"overlap": None, "precision": stated}, ran, asked, runs) is wanted


def test_fast_has_a_smaller_overlap_unless_one_is_given(card: ModelCard) -> None:
    from segcli.batch.stages import Options, with_names

    assert with_names(Options(precision="fast"), card).overlap == 0.25
    assert with_names(Options(precision="fast", overlap=0.5), card).overlap == 0.5
    thin = replace(card, window=replace(card.window, overlap=0.1))
    assert with_names(Options(precision="fast"), thin).overlap == 0.1
    assert with_names(Options(), card).overlap is None
