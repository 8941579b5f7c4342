"""Checkpoints are read safely or refused, and the table of tensors in them is found."""

import argparse
import gzip
import json
import os
import pickle
import re
import sys
import tarfile
import types
import warnings
import zipfile
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from segcli.engines.export import onnx_file
from segcli.errors import ModelError
from segcli.models import checkpoint, imports, library, unpickle, weights

CONTAINERS = Path(__file__).parents[1] / "data" / "containers"


class Caller:
    """Pickled, it is a call of `os.mkdir` with a name that gives it away."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, ("PWNED",)


@pytest.fixture(autouse=True)
def _no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    yield
    assert not [p for p in tmp_path.rglob("*") if "PWNED" in p.name]


def tensors() -> dict[str, Tensor]:
    return {"conv.weight": torch.tensor([0.0, 2.0]).reshape(2, 1, 1, 1, 1), "conv.bias": torch.tensor([0.5, -1.0])}


@pytest.mark.parametrize("name", sorted(p.name for p in CONTAINERS.glob("malicious*")))
def test_a_hostile_file_is_refused_by_what_it_would_call(name: str) -> None:
    culprit = {"malicious_raw.pth": r"posix\.mkdir"}.get(name, r"io\.open")
    with pytest.raises(ModelError, match=culprit):
        checkpoint.read(CONTAINERS / name)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_call_is_refused_wherever_it_stands(tmp_path: Path, old: bool, protocol: int) -> None:
    path = tmp_path / "w.pt"
    torch.save(
        {"state_dict": tensors(), "extra": Caller()},
        path,
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=not old,
    )
    with pytest.raises(ModelError, match="mkdir: not allowed"):
        checkpoint.read(path)


def test_a_call_of_an_unknown_class_is_refused_but_its_objects_are_dropped(tmp_path: Path) -> None:
    class Called:
        def __reduce__(self) -> tuple[Any, ...]:
            return pickle.Pickler, (1,)

    torch.save({"state_dict": tensors(), "extra": Called()}, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"pickle\.Pickler: not allowed"):
        checkpoint.read(tmp_path / "w.pt")


def test_dates_and_paths_beside_the_weights_do_no_harm(tmp_path: Path) -> None:
    from datetime import UTC, datetime

    torch.save({"state_dict": tensors(), "at": datetime(2024, 1, 1, tzinfo=UTC), "to": Path("x")}, tmp_path / "w.pt")
    assert set(checkpoint.innermost_table(checkpoint.read(tmp_path / "w.pt"))) == set(tensors())


@pytest.mark.parametrize("old", [False, True])
def test_numpy_texts_dates_and_objects_beside_the_weights_do_no_harm(tmp_path: Path, old: bool) -> None:
    import uuid

    import numpy as np

    beside = {
        "texts": np.array(["a", "b"]),
        "bytes": np.array([b"a"]),
        "objects": np.array([1, None], dtype=object),
        "rows": np.array([(1, "a")], dtype=[("a", "i4"), ("b", object)]),
        "days": np.array(["2020-01-01"], dtype="datetime64[D]"),
        "text": np.str_("abc"),
        "empty": np.str_(""),
        "day": np.datetime64("2020-01-01"),
        "run": uuid.UUID(int=1),
        "numbers": np.array([[1.0, 2.0], [3.0, 4.0]]),
        "big": np.array([1, 2], dtype=">i4"),
        "number": np.float64(2.5),
    }
    torch.save({"state_dict": tensors(), **beside}, tmp_path / "w.pt", _use_new_zipfile_serialization=not old)
    stored = checkpoint.read(tmp_path / "w.pt")
    assert checkpoint.innermost_table(stored).keys() == tensors().keys()
    for name in ("texts", "objects", "numbers", "big", "text", "empty", "number"):
        assert np.array_equal(stored.content[name], beside[name]), name


def test_a_call_among_numpy_objects_is_refused(tmp_path: Path) -> None:
    import numpy as np

    torch.save({"state_dict": tensors(), "x": np.array([Caller()], dtype=object)}, tmp_path / "w.pt")
    with pytest.raises(ModelError, match="mkdir: not allowed"):
        checkpoint.read(tmp_path / "w.pt")


class Forged:
    """Pickled, it is a NumPy type of objects that says it has none: bytes would be taken for their addresses."""

    def __reduce__(self) -> tuple[Any, ...]:
        import numpy as np

        return np.dtype, ("O8", False, True), (3, "|", None, None, None, -1, -1, 0)


class Addresses:
    """Pickled, it is an array of one object, at an address that is made up."""

    def __reduce__(self) -> tuple[Any, ...]:
        import numpy as np

        make, how, _ = np.zeros(1).__reduce__()  # type: ignore[misc]
        return make, how, (1, (1,), Forged(), False, b"\x10" * 8)


def test_bytes_are_never_taken_for_the_addresses_of_objects(tmp_path: Path) -> None:
    assert unpickle.plain_pickle(pickle.dumps(Addresses(), 2), "plans.pkl").size == 0
    torch.save({"state_dict": tensors(), "x": Addresses()}, tmp_path / "w.pt")
    assert checkpoint.read(tmp_path / "w.pt").content["x"].size == 0


def renamed(kind: type, module: str, name: str) -> type:
    """The class as a pickle names it where its package is installed."""
    kind.__module__, kind.__qualname__, kind.__name__ = module, name, name
    return kind


def test_settings_that_training_scripts_keep_beside_the_weights_do_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class CfgNode(dict):  # type: ignore[type-arg]
        pass

    places = {"yacs": types.ModuleType("yacs"), "yacs.config": types.ModuleType("yacs.config")}
    places["yacs.config"].CfgNode = renamed(CfgNode, "yacs.config", "CfgNode")  # type: ignore[attr-defined]
    for name, module in places.items():
        monkeypatch.setitem(sys.modules, name, module)
    settings = CfgNode(lr=0.1)
    settings.frozen = True  # type: ignore[attr-defined]
    plain = [int, str, tuple, slice(1, 2), range(3), complex(1, 2), frozenset([1])]
    beside = {"cfg": settings, "args": argparse.Namespace(lr=0.1), "plain": plain, "last": deque([1.0], maxlen=3)}
    torch.save({**beside, "state_dict": tensors()}, tmp_path / "a.pth")
    assert checkpoint.innermost_table(checkpoint.read(tmp_path / "a.pth")).keys() == tensors().keys()


def test_the_weights_are_found_beside_the_tables_of_an_optimiser(tmp_path: Path) -> None:
    state = {0: {"exp_avg": torch.zeros(2)}, 1: {"exp_avg": torch.zeros(2)}}
    torch.save({"optim": {"state": state, "groups": [{"lr": 0.1}]}, "final": tensors()}, tmp_path / "a.pth")
    assert checkpoint.innermost_table(checkpoint.read(tmp_path / "a.pth")).keys() == tensors().keys()


@pytest.mark.parametrize("key", [None, "optimizer_state"])
def test_the_state_of_an_optimiser_is_no_network(tmp_path: Path, key: str | None) -> None:
    state = {"state": {0: {"exp_avg": torch.ones(2), "step": torch.ones(1)}}, "param_groups": [{"lr": 0.1}]}
    torch.save({key: state, "epoch": 3} if key else state, tmp_path / "a.pth")
    with pytest.raises(ModelError, match="holds no table of tensors, but a dictionary with 2 entries"):
        checkpoint.innermost_table(checkpoint.read(tmp_path / "a.pth"))


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_a_file_that_ends_early_may_be_fetched_again(tmp_path: Path, name: str) -> None:
    content = tensors()
    save_file(content, tmp_path / name) if "safe" in name else torch.save(content, tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="truncated") as found:
        checkpoint.read(tmp_path / name)
    assert "a download that broke off" in str(found.value.hint)


def test_the_weights_are_found_in_a_tuple(tmp_path: Path) -> None:
    torch.save((3, tensors()), tmp_path / "a.pth")
    assert checkpoint.innermost_table(checkpoint.read(tmp_path / "a.pth")).keys() == tensors().keys()


def test_lists_of_the_same_list_are_looked_through_once() -> None:
    content: list[Any] = []
    for _ in range(4):
        content = [content] * 10_000
    with pytest.raises(ModelError, match="holds no table of tensors, but a list"):
        checkpoint.innermost_table(checkpoint.Stored("a.pth", "torch", content, ""))


def test_tensors_without_values_are_refused(tmp_path: Path) -> None:
    torch.save({"conv.weight": torch.zeros(2, device="meta")}, tmp_path / "a.pth")
    with pytest.raises(ModelError, match=r"the tensor conv.weight has a shape and no values"):
        checkpoint.innermost_table(checkpoint.read(tmp_path / "a.pth"))


def test_a_tensor_far_larger_than_its_file_is_refused(tmp_path: Path) -> None:
    """One stored value, repeated without end, is a file of a few kB; so is a header that claims too much."""
    vast = torch.zeros(1).expand(10**11)
    torch.save({"conv.weight": vast}, tmp_path / "vast.pt")
    with pytest.raises(ModelError, match=r"conv\.weight claims 100000000000 values, the file holds 4 bytes of them"):
        checkpoint.innermost_table(checkpoint.read(tmp_path / "vast.pt"))
    head = json.dumps({"conv.weight": {"dtype": "F32", "shape": [10**11], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "vast.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + bytes(4))
    with pytest.raises(ModelError, match="not a safetensors file, or a truncated one"):
        checkpoint.read(tmp_path / "vast.safetensors")


def test_a_sparse_tensor_is_refused(tmp_path: Path) -> None:
    torch.save({"conv.weight": torch.zeros(3, 3).to_sparse()}, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"conv\.weight is sparse, quantised or nested"):
        checkpoint.innermost_table(checkpoint.read(tmp_path / "w.pt"))


def test_a_tensor_of_tensors_of_several_shapes_is_refused_and_beside_the_weights_left_alone(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nested = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])
    torch.save({"conv.weight": nested}, tmp_path / "w.pt")
    torch.save({"state_dict": tensors(), "other": {"conv.weight": nested}}, tmp_path / "beside.pt")
    if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 15):  # which reads none itself where nothing may run
        for name in ("w.pt", "beside.pt"):
            with pytest.raises(ModelError, match=r"would call torch\._utils\._rebuild_nested_tensor: not allowed"):
                checkpoint.read(tmp_path / name)
        return
    with pytest.raises(ModelError, match=r"conv\.weight is sparse, quantised or nested"):
        checkpoint.innermost_table(checkpoint.read(tmp_path / "w.pt"))
    assert checkpoint.taken(checkpoint.read(tmp_path / "beside.pt")) == (None, [])


def test_a_load_allows_other_threads_no_more_than_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a file is read, torch's own list of what any load may call stays as it is."""
    seen: list[set[Any]] = []
    read: Any = torch.serialization
    before = set(torch.serialization.get_safe_globals())

    def watched(*args: Any, **more: Any) -> Any:
        seen.append(set(torch.serialization.get_safe_globals()))
        return load(*args, **more)

    load = read._load
    monkeypatch.setattr(torch.serialization, "_load", watched)
    torch.save({"state_dict": tensors(), "args": argparse.Namespace(lr=0.1)}, tmp_path / "w.pt")
    checkpoint.innermost_table(checkpoint.read(tmp_path / "w.pt"))
    assert seen == [before]


def test_a_pickle_that_the_safe_loader_does_not_read_is_not_called_damaged(tmp_path: Path) -> None:
    torch.save(tensors(), tmp_path / "a.pth", pickle_protocol=4)
    with pytest.raises(ModelError, match="a pickle of protocol 4 or later") as refusal:
        checkpoint.read(tmp_path / "a.pth")
    assert "torch.save(model.state_dict(), FILE)" in str(refusal.value.hint)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("torchscript_trace.pt", "TorchScript program"),
        ("tiny_segresnet_whole_module_pickle.pt", "whole pickled network"),
    ],
)
def test_5_1_what_would_run_as_code_is_refused_with_advice(name: str, words: str) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        checkpoint.read(CONTAINERS / name)
    assert "state_dict()" in str(caught.value.hint)


@pytest.mark.parametrize("member", ["a/archive_format", "a/serialized_exported_program.json"])
def test_a_program_of_torch_export_is_called_that(tmp_path: Path, member: str) -> None:
    with zipfile.ZipFile(tmp_path / "model.pt2", "w") as archive:
        archive.writestr(member, "pt2")
        archive.writestr("a/data/sample_inputs/model.pt", "")
    with pytest.raises(ModelError, match=r"model\.pt2: a program of torch\.export, not tensors alone") as caught:
        checkpoint.read(tmp_path / "model.pt2")
    assert "torch.save(torch.export.load('model.pt2').state_dict" in str(caught.value.hint)


@pytest.mark.parametrize(
    "name",
    sorted(
        p.name
        for p in CONTAINERS.glob("tiny_segresnet_*")
        if not any(word in p.name for word in ("expected", "whole_module", "lightning"))
    ),
)
def test_every_container_gives_the_same_weights(name: str) -> None:
    stored = checkpoint.read(CONTAINERS / name)
    with safe_open(CONTAINERS / "tiny_segresnet_expected.safetensors", "pt") as file:
        config = {k: v for k, v in json.loads(file.metadata()["config"]).items() if k != "network"}
        x, y = file.get_tensor("__input__"), file.get_tensor("__output__")
    net = weights.filled_network(checkpoint.innermost_table(stored), "segresnet", config, name)
    with torch.inference_mode():
        assert (net(x) - y).abs().max() < 1e-5


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_a_file_cut_in_half_is_called_truncated(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"w{ending}"
    save_file(tensors(), path) if ending == ".safetensors" else torch.save(tensors(), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ModelError, match="truncated"):
        checkpoint.read(path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"<html>404 not found</html>", "26 bytes, it seems to be a web page"),
        (gzip.compress(b"weights", mtime=0), "27 bytes, it seems to be packed with gzip: unpack it first"),
        (b"", "0 bytes, it is empty"),
    ],
)
def test_what_is_not_a_checkpoint_is_called_what_it_seems_to_be(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(ModelError, match=f"not a checkpoint of any format that segcli knows; {told}"):
        checkpoint.read(tmp_path / "w.pt")


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors", "w.onnx"])
def test_a_pointer_in_place_of_weights_says_how_they_are_fetched(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 70\n")
    with pytest.raises(ModelError, match=rf"{name}: is a pointer of Git LFS, .*git lfs pull"):
        checkpoint.read(path, "0" * 64)
    with pytest.raises(ModelError, match=rf"{name}: is a pointer of Git LFS"):
        imports.inspect(path)
    if name != "w.pt":
        with pytest.raises(ModelError, match=rf"{name}: is a pointer of Git LFS"):
            library.find(str(path))
    with pytest.raises(ModelError, match=rf"{name}: is a pointer of Git LFS"):
        onnx_file.read(path.read_bytes(), name, library.find("uxnet"), "0" * 64)


class Laid:
    """Pickled, it is a call of NumPy's class: an array of one object over bytes, which are then its address."""

    def __reduce__(self) -> tuple[Any, ...]:
        import numpy as np

        return np.ndarray, ((1,), "O", b"\x10" * 8)


@pytest.mark.parametrize("old", [False, True])
def test_no_file_lays_an_array_of_objects_over_its_own_bytes(tmp_path: Path, old: bool) -> None:
    torch.save({"state_dict": tensors(), "x": Laid()}, tmp_path / "w.pt", _use_new_zipfile_serialization=not old)
    with pytest.raises(ModelError, match=r"opening it would call numpy\.ndarray: not allowed"):
        checkpoint.read(tmp_path / "w.pt")
    for protocol in range(2, 6):
        with pytest.raises(ModelError, match=r"opening it would call numpy\.ndarray: not allowed"):
            unpickle.plain_pickle(pickle.dumps(Laid(), protocol), "plans.pkl")


class Short:
    """Pickled, it is an array of more objects than come with it."""

    def __reduce__(self) -> tuple[Any, ...]:
        import numpy as np

        make, how, _ = np.zeros(1).__reduce__()  # type: ignore[misc]
        return make, how, (1, (1000,), np.dtype("O"), False, [1])


@pytest.mark.parametrize("old", [False, True])
def test_an_array_of_fewer_objects_than_it_claims_is_refused(tmp_path: Path, old: bool) -> None:
    torch.save({"state_dict": tensors(), "x": Short()}, tmp_path / "w.pt", _use_new_zipfile_serialization=not old)
    words = r"an array of 1 objects that claims to have the shape \(1000,\): not allowed"
    with pytest.raises(ModelError, match=rf"w\.pt: {words}"):
        checkpoint.read(tmp_path / "w.pt")
    with pytest.raises(ModelError, match=rf"plans\.pkl: {words}"):
        unpickle.plain_pickle(pickle.dumps(Short(), 2), "plans.pkl")


def test_a_numpy_scalar_of_objects_is_no_number(tmp_path: Path) -> None:
    import numpy as np

    data = pickle.dumps(np.array([{"a": 1}], dtype=object)[:1], 2)
    assert unpickle.plain_pickle(data, "plans.pkl")[0] == {"a": 1}
    with pytest.raises(ModelError, match="scalar of the type object"):
        unpickle._scalar(unpickle._Kind("O"), b"")


def test_a_plain_pickle_gives_values_and_calls_nothing() -> None:
    import numpy as np

    values = {"spacing": np.array([3.0, 0.75]), "n": np.int64(4), "mask": np.float32(0.5), "names": ["a", ("b",)]}
    for protocol in range(2, 6):
        found = unpickle.plain_pickle(pickle.dumps(values, protocol), "plans.pkl")
        assert found["spacing"].tolist() == [3.0, 0.75]
        assert (found["n"], found["mask"], found["names"]) == (4, 0.5, ["a", ("b",)])
        with pytest.raises(ModelError, match=r"plans\.pkl: an unsafe pickle; opening it would call .*mkdir"):
            unpickle.plain_pickle(pickle.dumps([values, Caller()], protocol), "plans.pkl")


def test_the_digest_of_tensors_does_not_depend_on_the_file(tmp_path: Path) -> None:
    save_file(tensors(), tmp_path / "a.safetensors")
    torch.save(tensors(), tmp_path / "b.pt")
    sums = {checkpoint.digest(checkpoint.innermost_table(checkpoint.read(p))) for p in sorted(tmp_path.iterdir())}
    assert len(sums) == 1
    changed = tensors()
    changed["conv.bias"][0] += 1e-6
    assert checkpoint.digest(changed) not in sums


def test_a_zip_whose_members_are_packed_is_no_checkpoint(tmp_path: Path) -> None:
    """torch never packs: what is packed was made by others, and may unpack to anything."""
    torch.save({"weight": torch.zeros(2)}, tmp_path / "torch.pt")
    with zipfile.ZipFile(tmp_path / "torch.pt") as whole, zipfile.ZipFile(tmp_path / "packed.pt", "w") as packed:
        for member in whole.namelist():
            packed.writestr(member, whole.read(member), zipfile.ZIP_DEFLATED)
    assert checkpoint.read(tmp_path / "torch.pt").container == "torch"
    with pytest.raises(ModelError, match="a zip archive, but not a checkpoint"):
        checkpoint.read(tmp_path / "packed.pt")


def test_a_pickle_that_makes_up_a_name_or_has_an_extension_code_is_refused() -> None:
    made_up = b"\x80\x04" + pickle.SHORT_BINUNICODE + b"\x02os" + pickle.EMPTY_LIST + pickle.STACK_GLOBAL + b"."
    with pytest.raises(ModelError, match=r"p.pkl: a pickle that makes up a name while it is read: not allowed"):
        unpickle.plain_pickle(made_up, "p.pkl")
    with pytest.raises(ModelError, match=r"p.pkl: a pickle with extension code 7: not allowed"):
        unpickle.plain_pickle(b"\x80\x02" + pickle.EXT1 + b"\x07.", "p.pkl")
    with pytest.raises(ModelError, match=r"p.pkl: a pickle that numbers its parts beyond its size: not allowed"):
        unpickle.plain_pickle(b"\x80\x02]r\xff\xff\xff\x3f.", "p.pkl")


@pytest.mark.parametrize(
    ("called", "words"),
    [
        (b"cnumpy\ndtype\nK\x01\x85R.", "a NumPy type that is given as int: not allowed"),
        (b"cnumpy.core.multiarray\n_reconstruct\n(cbuiltins\nlist\n)U\x01btR.", "an array of the class .*list.*: not"),
        (b"c_codecs\nencode\n(U\x01aU\x03hextR.", "bytes in the encoding 'hex': not allowed"),
    ],
)
def test_what_numpys_makers_are_given_is_looked_at(called: bytes, words: str) -> None:
    with pytest.raises(ModelError, match=rf"p\.pkl: {words}"):
        unpickle.plain_pickle(b"\x80\x02" + called, "p.pkl")


def test_a_file_of_the_time_of_tar_archives_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "w.pth", "w", format=tarfile.USTAR_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    with pytest.raises(ModelError, match=r"w.pth: an archive of the tar kind \(PyTorch before 0.1.10\): not allowed"):
        checkpoint.read(tmp_path / "w.pth")


def test_a_checkpoint_without_tensors_is_described(tmp_path: Path) -> None:
    told = {
        "a dictionary with 2 entries (epoch, lr)": {"epoch": 3, "lr": 0.1},
        "a dictionary with 6 entries (a, b, c, d, e, ...)": dict.fromkeys("abcdef", 0),
        "a list": [1, 2],
        "an object of the class argparse.Namespace": argparse.Namespace(lr=1),
    }
    for words, content in told.items():
        torch.save(content, tmp_path / "w.pt")
        with pytest.raises(ModelError, match=re.escape(f"w.pt: holds no table of tensors, but {words}")):
            checkpoint.innermost_table(checkpoint.read(tmp_path / "w.pt"))


def test_an_empty_table_beside_the_weights_is_passed_by(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "model": tensors(), "ema": {"other": torch.zeros(1)}}, tmp_path / "w.pt")
    stored = checkpoint.read(tmp_path / "w.pt")
    assert sorted(checkpoint.innermost_table(stored)) == ["conv.bias", "conv.weight"]
    assert checkpoint.sister_tables(stored) == (["model"], [])
