import builtins
import hashlib
import re
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from models import organs
from small import model

from segcli import memory
from segcli.engines import choose, onnx_providers, table, torch_cuda, torch_devices
from segcli.engines.averaged import Ensemble
from segcli.engines.choose import open_engine
from segcli.engines.export.verified import export_onnx
from segcli.engines.mirrored import Mirrored
from segcli.engines.opening import Opening
from segcli.engines.torch_devices import TorchCPU
from segcli.errors import EngineError, ModelError, UsageError
from segcli.inference.engine import Engine
from segcli.memory import OnDisk, zeros
from segcli.models.card import ModelCard
from segcli.models.library import read_card

KINDS = ("torch", "onnx", "openvino")
WINDOW = (slice(0, 32),) * 3


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> ModelCard:
    """A small 3D UX-Net with weights and an exported ONNX file."""
    folder = tmp_path_factory.mktemp("models") / "small"
    made = model(folder)
    export_onnx(made, folder / "model.onnx")
    return replace(made, onnx="model.onnx")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGCLI_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "cache"


def patches(count: int, size: tuple[int, int, int] = (32, 32, 32)) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 1, *size)).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS[1:])
def test_engines_answer_as_torch_for_one_window_and_for_three(card: ModelCard, kind: Any) -> None:
    x = patches(3)
    wanted = np.asarray(open_engine(card, engine="torch").engine.run(x))
    engine = open_engine(card, engine=kind, batch=2).engine
    for count in (1, 2, 3):
        found = np.asarray(engine.run(x[:count]))
        assert np.abs(found - wanted[:count]).max() <= 1e-3 * np.abs(wanted).max()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_engine_keeps_the_whole_protocol_also_mirrored_and_in_an_ensemble(card: ModelCard, kind: Any) -> None:
    own = open_engine(card, engine=kind).engine
    for engine in (own, Mirrored(own, (2,), None, ()), Ensemble([own, own], card.decide, votes=True)):
        assert isinstance(engine, Engine)
        assert (engine.precision, engine.repeated, list(engine.fallbacks)) == ("float32", 0, [])
        logits = engine.run(patches(2))
        sums = engine.sums(patches(1)[0], (33, 32, 32), 0, np.ones((32, 32, 32), np.float32))
        sums.add([WINDOW])
        np.testing.assert_allclose(sums.finished(WINDOW), logits[0], rtol=1e-3, atol=1e-3 * np.abs(logits).max())


@pytest.mark.parametrize("kind", KINDS)
def test_after_a_rest_the_answer_is_the_same(card: ModelCard, kind: Any) -> None:
    engine = open_engine(card, engine=kind, threads=2).engine
    before = np.asarray(engine.run(patches(1))).copy()
    engine.rest()
    assert np.abs(np.asarray(engine.run(patches(1))) - before).max() <= 1e-5 * np.abs(before).max()


@pytest.mark.parametrize("kind", KINDS)
def test_sums_gather_weighted_logits_at_their_place(card: ModelCard, kind: Any) -> None:
    engine = open_engine(card, engine=kind, threads=2).engine
    (logits,) = engine.answer(patches(1)[0], [WINDOW])
    plain = np.asarray(logits).copy()
    weight = np.linspace(0, 1, 32**3, dtype=np.float32).reshape(32, 32, 32)
    total = engine.zeros((3, 40, 32, 48))
    at = (slice(8, 40), slice(0, 32), slice(16, 48))
    engine.add(total, at, logits, weight)
    engine.add(total, at, logits, weight)
    wanted = np.zeros((3, 40, 32, 48), np.float32)
    wanted[(slice(None), *at)] = 2 * plain * weight
    np.testing.assert_allclose(engine.get(total), wanted, rtol=1e-5, atol=1e-6)
    norm = np.linspace(1, 2, 40 * 32 * 48, dtype=np.float32).reshape(40, 32, 48)
    np.testing.assert_array_equal(engine.mean(total, norm), engine.get(total) / norm)


@pytest.mark.parametrize("kind", KINDS)
def test_sums_beyond_the_limit_live_in_a_file_and_are_the_same(card: ModelCard, kind: Any) -> None:
    engine = open_engine(card, engine=kind, threads=1).engine
    engine.max_ram = 1000
    total = engine.zeros((3, 32, 32, 32))
    assert isinstance(zeros((3, 32, 32, 32), 1000, [], memory.RESERVE), OnDisk)
    assert "sums of 0.0 GB are kept in a temporary file" in engine.fallbacks[0]
    (logits,) = engine.answer(patches(1)[0], [WINDOW])
    engine.add(total, (slice(0, 32),) * 3, logits, np.ones((32, 32, 32), np.float32))
    np.testing.assert_array_equal(engine.get(total), np.asarray(logits))


def test_logits_that_would_fill_the_memory_twice_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """brainchop's 104 classes of a whole image of 256 x 256 x 256 took 14 GB, and as much again with their sums."""
    last = torch.nn.Conv3d(2, 5, 1)  # answers in channels-last order
    engine = TorchCPU(torch.nn.Sequential(last), threads=1, batch=1)
    image = np.random.default_rng(0).normal(size=(2, 4, 6, 8)).astype(np.float32)
    at = [(slice(0, 4), slice(0, 6), slice(0, 8))]
    usual = engine.answer(image, at)
    monkeypatch.setattr(torch_devices, "_COPIED", usual.nbytes - 1)
    large = engine.answer(image, at)
    assert (usual.is_contiguous(), large.is_contiguous()) == (True, False)
    assert large.equal(usual)
    sums = []
    for _ in range(2):
        sums.append(engine.sums(image, (5, 6, 8), 0, np.full((4, 6, 8), 0.5, np.float32)))
        sums[-1].add(at)
        monkeypatch.undo()
    assert np.array_equal(*(one.finished(at[0]) for one in sums))


def test_what_get_returns_is_not_the_sum_itself(card: ModelCard) -> None:
    for kind in KINDS:
        engine = open_engine(card, engine=kind).engine
        total = engine.zeros((1, 2, 2, 2))
        engine.get(total)[...] = 1
        assert engine.get(total).max() == 0


def test_auto_takes_openvino_on_the_models_onnx_file_and_says_so(card: ModelCard) -> None:
    opened = open_engine(card)
    assert opened.engine.name == "openvino cpu"
    assert opened.engine.precision == "float32"
    assert "fastest" in opened.reason
    assert list(opened.hashes) == ["model.onnx"]


def test_an_onnx_run_never_imports_torch(tmp_path: Path) -> None:
    folder = organs(tmp_path / "organs")
    program = (
        "import sys; from pathlib import Path; from segcli.models.library import read_card; "
        "from segcli.engines.choose import open_engine; import numpy as np; "
        f"opened = open_engine(read_card(Path({str(folder)!r}))); "
        "opened.engine.run(np.zeros((1, 1, 32, 32, 32), np.float32)); "
        "print(opened.engine.name, 'torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "openvino cpu False"


def test_without_openvino_auto_takes_onnx_runtime(card: ModelCard, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "openvino")
    assert open_engine(card).engine.name == "onnxruntime cpu"


def test_without_any_runtime_auto_takes_torch(card: ModelCard, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "openvino", "onnxruntime")
    opened = open_engine(card)
    assert opened.engine.name == "torch cpu"
    assert opened.hashes == {"weights.safetensors": card.sha256[0]}


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_6_8_a_library_that_is_not_installed_is_named_with_what_installs_it(
    card: ModelCard, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    without(monkeypatch, "openvino", "onnxruntime")
    with pytest.raises(EngineError, match=r"(openvino|onnxruntime) is not installed \(pip install "):
        choose.choose(card, kind, "auto")


def test_without_any_engine_there_is_a_sentence_and_no_fault(card: ModelCard, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "openvino", "onnxruntime", "torch")
    with pytest.raises(EngineError, match=r"no engine is installed \(pip install openvino\)"):
        choose.choose(card, "auto", "cpu")


def test_where_the_engine_that_a_card_names_is_missing_that_is_said(
    card: ModelCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = replace(card, weights=(), onnx="model.onnx", engines=("onnx",))
    without(monkeypatch, "onnxruntime")
    with pytest.raises(ModelError, match=r"has an ONNX file and no weights \(use --engine onnx\)"):
        choose.choose(graph, "auto", "cpu")
    without(monkeypatch, "onnxruntime", "torch")
    with pytest.raises(EngineError, match="its ONNX file is for onnx, which cannot be used here"):
        choose.choose(graph, "auto", "cpu")


def test_a_model_without_weights_is_run_by_what_reads_graphs_alone(
    card: ModelCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = replace(card, weights=(), sha256=())
    with pytest.raises(ModelError, match=f"{card.name}"):
        choose.choose(graph, "torch", "cpu")
    monkeypatch.setattr(choose, "driver_devices", lambda: 1)
    assert choose.choose(graph, "auto", "auto").device == "cpu"
    with pytest.raises(ModelError, match=f"{card.name}"):
        choose.choose(graph, "torch", "cuda")


def without(monkeypatch: pytest.MonkeyPatch, *libraries: str) -> None:
    for room in (choose, table):
        monkeypatch.setattr(room, "find_spec", lambda name: None if name in libraries else True)


@pytest.mark.slow
def test_a_model_with_weights_alone_is_exported_once_into_the_cache(home: Path, tmp_path: Path) -> None:
    card = model(tmp_path / "bare")
    first = open_engine(card)
    assert first.engine.name == "openvino cpu"
    (file,) = (home / "onnx").glob("*.onnx")
    stamp = file.stat().st_mtime_ns
    assert open_engine(card).hashes == first.hashes
    assert file.stat().st_mtime_ns == stamp


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["truncated", "empty", "changed", "without its sum"])
def test_a_damaged_file_in_the_cache_is_made_anew_and_said(home: Path, tmp_path: Path, damage: str) -> None:
    card = model(tmp_path / "bare")
    first = open_engine(card)
    (file,) = (home / "onnx").glob("*.onnx")
    whole = file.read_bytes()
    if damage == "without its sum":
        file.with_suffix(".sha256").unlink()
    else:
        other = bytes([whole[-1] ^ 1])
        file.write_bytes({"truncated": whole[:-9], "empty": b"", "changed": whole[:-1] + other}[damage])
    again = open_engine(card)
    assert again.hashes == first.hashes
    assert file.read_bytes() == whole
    assert again.note == f"{file}: " + ("made for this model" if "sum" in damage else "was damaged and made anew")
    assert open_engine(card).note == ""


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("SEGCLI_HOME", str(tmp_path / "file"))
    opened = open_engine(model(tmp_path / "bare"))
    assert opened.engine.name == "openvino cpu"
    assert "made for this run alone, for it cannot be kept" in opened.note


@pytest.mark.slow
def test_a_graph_of_the_cache_that_is_refused_is_named_as_it_lies_there(home: Path, tmp_path: Path) -> None:
    card = model(tmp_path / "bare")
    open_engine(card)
    (file,) = (home / "onnx").glob("*.onnx")
    file.write_bytes(b"thesis")
    file.with_suffix(".sha256").write_text(hashlib.sha256(b"thesis").hexdigest())
    with pytest.raises(ModelError, match=re.escape(f"{file}: not an ONNX file")):
        open_engine(card)


def test_6_8_an_engine_that_is_not_there_is_refused_where_folds_are_to_be_told_apart_too(tmp_path: Path) -> None:
    folds = model(tmp_path / "folds", weights=["a.safetensors", "b.safetensors"])
    opening = Opening((str(folds.folder),), engine="tensorrt", votes=True)
    with pytest.raises(UsageError, match="no engine is called 'tensorrt'"):
        opening.open(folds)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"engine": "openvino", "device": "cuda"}, "OpenVINO runs on the CPU"),
        ({"device": "cuda"}, "cuda is not there"),
        ({"device": "cuda:3"}, "cuda:3 is not there"),
        ({"engine": "onnx", "device": "cuda"}, "cuda is not there"),
    ],
)
def test_6_8_a_named_engine_or_device_that_is_not_there_is_refused(
    card: ModelCard, arguments: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "driver_devices", lambda: 0)
    with pytest.raises(EngineError, match=words):
        open_engine(card, **arguments)


@pytest.mark.parametrize("arguments", [{"engine": "tensorrt"}, {"device": "gpu"}])
def test_an_engine_or_device_of_no_such_name_is_a_mistake_of_the_command_line(
    card: ModelCard, arguments: dict[str, Any]
) -> None:
    with pytest.raises(UsageError, match="is called") as refusal:
        open_engine(card, **arguments)
    assert refusal.value.exit_code == 2


def test_6_8_an_onnx_runtime_without_the_provider_asked_for_is_refused(
    card: ModelCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "driver_devices", lambda: 1)
    with pytest.raises(EngineError, match="no CUDAExecutionProvider"):
        open_engine(card, engine="onnx", device="cuda")


def test_6_8_onnx_runtime_on_cuda_computes_in_the_float32_of_the_record_and_searches_no_kernels() -> None:
    _, settings = onnx_providers.provider_for("cuda:1", None)
    assert settings == {"device_id": "1", "use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}


def test_6_6_onnx_runtime_on_cuda_adds_up_in_the_same_order_in_every_run(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    seen: list[bool] = []

    def made(data: bytes, options: Any, *, providers: Any, enable_fallback: int) -> Any:
        seen.append(options.use_deterministic_compute)
        return SimpleNamespace(get_providers=lambda: [providers[0][0]])

    library = SimpleNamespace(SessionOptions=onnxruntime.SessionOptions, InferenceSession=made)
    monkeypatch.setattr(onnx_providers, "silent", lambda: nullcontext(library))
    for device in ("cpu", "cuda:0"):
        onnx_providers.session(b"", "a.onnx", device)
    assert seen == [False, True]


def test_6_8_a_torch_without_cuda_is_refused_for_a_named_device(
    card: ModelCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "driver_devices", lambda: 1)
    monkeypatch.setattr(torch_cuda.torch.version, "cuda", None)
    with pytest.raises(EngineError, match="torch cannot use CUDA: it is built for the CPU"):
        open_engine(card, engine="torch", device="cuda:0")
    opened = open_engine(card)
    assert opened.engine.name == "openvino cpu"
    assert "this torch cannot use it: it is built for the CPU" in opened.warnings[0]


@pytest.mark.parametrize("kind", KINDS)
def test_5_3_other_bytes_than_the_cards_sum_are_refused_with_both_sums(tmp_path: Path, kind: Any) -> None:
    folder = organs(tmp_path / "organs")
    name = "weights.safetensors" if kind == "torch" else "model.onnx"
    old = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    with (folder / name).open("ab") as file:
        file.write(b"\0")
    new = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    with pytest.raises(ModelError) as refusal:
        open_engine(read_card(folder), engine=kind)
    assert old in refusal.value.message
    assert new in refusal.value.message


def test_5_3_the_hashed_bytes_are_the_loaded_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = organs(tmp_path / "organs")
    opened: list[str] = []
    plain = Path.open

    def watched(self: Path, *args: Any, **kwargs: Any) -> Any:
        opened.append(self.name)
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", watched)
    monkeypatch.setattr(builtins, "open", lambda *a, **k: pytest.fail("the file is read by name"))
    card = read_card(folder)
    opened.clear()
    open_engine(card, engine="openvino")
    assert opened.count("model.onnx") <= 1


@pytest.mark.slow
def test_folds_are_averaged_as_logits_in_every_engine(tmp_path: Path) -> None:
    both = model(tmp_path / "both", weights=["a.safetensors", "b.safetensors"])
    x = patches(1)
    single = [
        np.asarray(open_engine(replace(both, weights=(n,), sha256=(s,)), engine="torch").engine.run(x))
        for n, s in zip(both.weights, both.sha256, strict=True)
    ]
    wanted = (single[0] + single[1]) / 2
    assert np.abs(single[0] - single[1]).max() > 0.1
    export_onnx(both, tmp_path / "both" / "model.onnx")
    for kind in KINDS:
        engine = open_engine(replace(both, onnx="model.onnx"), engine=kind).engine
        assert np.abs(np.asarray(engine.run(x)) - wanted).max() <= 1e-3 * np.abs(wanted).max()


def test_several_models_are_averaged_and_members_with_other_windows_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGCLI_WEIGHTS", str(tmp_path))
    one = organs(tmp_path / "one")
    organs(tmp_path / "two")
    card = replace(read_card(one), ensemble=("one", "two"))
    opened = open_engine(card)
    x = patches(2)
    np.testing.assert_array_equal(opened.engine.run(x), np.asarray(open_engine(read_card(one)).engine.run(x)))
    assert sorted(opened.hashes) == ["one/model.onnx", "two/model.onnx"]
    organs(tmp_path / "two", onnx=False, patch_size=[16, 32, 32])
    with pytest.raises(ModelError, match="another patch_size"):
        open_engine(card)


def test_whole_images_go_to_torch_which_takes_windows_of_any_size(tmp_path: Path) -> None:
    whole = read_card(organs(tmp_path / "organs", onnx=False, whole=True))
    opened = open_engine(whole, device="cpu")
    assert opened.engine.name == "torch cpu"
    assert opened.engine.run(patches(1, (5, 6, 7))).shape == (1, 6, 5, 6, 7)
    with pytest.raises(EngineError, match="organs is shown whole images of any size, onnx takes windows of one"):
        open_engine(whole, engine="onnx")
    with pytest.raises(ModelError, match="organs is shown whole images of any size, and a graph has one"):
        export_onnx(whole, tmp_path / "model.onnx")


def test_the_memory_of_a_run_is_that_of_the_tensors_that_live_together(tmp_path: Path) -> None:
    from segcli.engines.activations import peak

    # 5 * 6 * 7 voxels of float32: one channel that is seen, six that are answered
    assert peak(read_card(organs(tmp_path / "organs")), (5, 6, 7)) == 4 * 210 * (1 + 6)
