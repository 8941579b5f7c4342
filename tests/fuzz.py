"""Feed damaged files to the rooms that read them; whatever is not a refusal of segcli's own is a finding.

    python tests/fuzz.py [SECONDS] [KIND ...] [--from SEED]

SECONDS (20) are those of each kind; the kinds are nifti, nrrd, metaimage, mgh, dicom, card, onnx, safetensors and
torch, all of them if none is named. Small valid files are made here, and damaged in a way that kind and seed alone
decide: bytes, numbers and words are put in other places, JSON values become others, files end early or late. Findings
are exceptions that are not a SegcliError, warnings, more than 10 s for a file, and a process that dies. Each is
printed once, with kind, seed and traceback; `--from SEED` begins with that seed. Exit code 1 if there was a finding.
"""

import copy
import gzip
import importlib
import io
import json
import multiprocessing
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent / "formats"))
sys.path.insert(0, str(Path(__file__).parent / "formats" / "dicom"))

from models import CARD, affine, onnx_file, organs
from scan_files import counting, nifti_bytes

from segcli.errors import SegcliError

Files = dict[str, bytes]  # name -> content; the first is the one that is read
LONGEST = 10  # seconds for one file
MEMORY = 12 << 30  # bytes of address space
NUMBERS = (0, 1, -1, 2, 3, 7, 127, 128, 255, 256, 32767, -32768, 65535, 1 << 31, -(1 << 31), (1 << 32) - 1, 1 << 40)
NUMBERS += ((1 << 63) - 1, -(1 << 63), (1 << 64) - 1)
FLOATS = (0.0, -1.0, 1e-320, 1e-30, 1e30, 1e38, 1e308, float("nan"), float("inf"), -float("inf"), 0.5, 1e20)
WORDS = (
    "",
    "0",
    "-1",
    "1e400",
    "nan",
    "inf",
    "-inf",
    "none",
    "99999999999999999999",
    "1.5",
    "1_0",
    "0x10",
    "٣",
    "ä",
    "\0",
)
WORDS += (
    "(1,0,0)",
    "((",
    "(nan,0,0)",
    "1 2",
    "../x",
    "/",
    ".",
    "LOCAL",
    "LIST",
    "%d",
    "\\",
    "1\\2",
    "a" * 300,
    "9" * 5000,
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    1.5,
    1e308,
    float("nan"),
    float("inf"),
    10**30,
    10**400,
    "",
    "x",
)
VALUES += ("\0", "../x", "ä\ud800", "1", [], {}, [[]], [None], {"": None}, [1], [1, 2, 3], [0, 0, 0], ["x"], "a" * 1000)
VALUES += ([1e308] * 3, [float("nan")] * 3, [10**30] * 3, {"name": []}, [{}], [True] * 3, "NaN", 2**31, 2**63)


@dataclass(frozen=True)
class Kind:
    """made: valid files of the kind; hurt: one file's content, damaged; feed: what reads the first file of a folder."""

    made: Callable[[], list[Files]]
    hurt: Callable[[random.Random, str, bytes], bytes]
    feed: Callable[[Path], None]


# ---- damage ---------------------------------------------------------------------------------------------------------


def hurt_bytes(rng: random.Random, data: bytes, header: int = 600) -> bytes:
    """Other bytes and numbers in the header, a span elsewhere, another length."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(max(1, min(header, len(out))))
        span = rng.choice((1, 2, 4, 8, 30))
        match rng.randrange(8):
            case 0:
                out[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                out[at : at + 1] = bytes([(out[at] if at < len(out) else 0) ^ 1 << rng.randrange(8)])
            case 2:
                size = rng.choice((1, 2, 4, 8))
                number = rng.choice(NUMBERS) % (1 << 8 * size)
                at -= at % size
                out[at : at + size] = number.to_bytes(size, rng.choice(("little", "big")))
            case 3:
                kind = rng.choice(("<f", ">f", "<d", ">d"))
                number = rng.choice(FLOATS)
                with suppress(OverflowError):
                    packed = struct.pack(kind, number)
                    at -= at % 4
                    out[at : at + len(packed)] = packed
            case 4:
                del out[rng.randrange(len(out) + 1) :]
            case 5:
                out += rng.choice((b"\0" * 1000, rng.randbytes(17), bytes(out[:400])))
            case 6:
                other = rng.randrange(max(1, min(header, len(out))))
                out[at : at + span], out[other : other + span] = out[other : other + span], out[at : at + span]
            case 7:
                out[at:at] = rng.choice((bytes(out[at : at + span]), rng.randbytes(span), b"\0" * span))
    return bytes(out)


def hurt_lines(rng: random.Random, data: bytes, end: bytes) -> bytes:
    """Words of the lines before `end` become others; lines go, come twice, change places or values."""
    head, sep, rest = data.partition(end)
    lines = head.split(b"\n")
    for _ in range(rng.choice((1, 1, 2, 3))):
        at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
        mark = b":" if b":" in lines[at] else b"="
        words = lines[at].split(b" ")
        word = rng.choice((rng.choice(WORDS), str(rng.choice(NUMBERS)))).encode()
        match rng.randrange(7):
            case 0 | 1:
                words[rng.randrange(len(words))] = word
                lines[at] = b" ".join(words)
            case 2:
                lines[at] = lines[at].partition(mark)[0] + mark + b" " + word
            case 3:
                lines.insert(other, lines[at])
            case 4:
                lines[at], lines[other] = lines[other], lines[at]
            case 5:
                lines[at] = lines[at].partition(mark)[0] + mark + lines[other].partition(mark)[2]
            case 6 if len(lines) > 1:
                del lines[at]
    return b"\n".join(lines) + sep + rest


def hurt_json(rng: random.Random, document: Any) -> Any:
    """Some values of a document become others, go, or get new company."""
    document = {"": copy.deepcopy(document)}
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        places = list(_places(document))
        holder, key = rng.choice(places)
        match rng.randrange(6):
            case 0 | 1 | 2:
                holder[key] = copy.deepcopy(rng.choice(VALUES))
            case 3:
                other, there = rng.choice(places)
                holder[key] = copy.deepcopy(other[there])
            case 4 if isinstance(holder[key], list):
                holder[key] = holder[key] * rng.choice((0, 2, 50)) + [rng.choice(VALUES)]
            case 4 if isinstance(holder[key], dict):
                holder[key][rng.choice(WORDS)] = rng.choice(VALUES)
            case _ if key != "":
                del holder[key]
    return document.get("")


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key in value if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from _places(value[key])


def hurt_text(rng: random.Random, text: str) -> bytes:
    """JSON as other bytes: its values, its text, or how deep it goes."""
    choice = rng.randrange(10)
    if choice == 0:
        return hurt_bytes(rng, text.encode(), len(text))
    if choice == 1:
        deep = rng.choice((50, 5000, 100_000))
        return text.replace(rng.choice(("[", "0.5", '"CT"', "1")), "[" * deep, 1).encode()
    return json.dumps(hurt_json(rng, json.loads(text))).encode()


def hurt_scan(rng: random.Random, name: str, data: bytes) -> bytes:
    if data[:2] == b"\x1f\x8b" and rng.random() < 0.7:
        return gzip.compress(hurt_bytes(rng, gzip.decompress(data)), mtime=0)
    return hurt_bytes(rng, data)


def hurt_nrrd(rng: random.Random, name: str, data: bytes) -> bytes:
    return hurt_lines(rng, data, b"\n\n") if rng.random() < 0.7 else hurt_bytes(rng, data)


def hurt_meta(rng: random.Random, name: str, data: bytes) -> bytes:
    return hurt_lines(rng, data, b"\nElementDataFile = LOCAL\n") if rng.random() < 0.7 else hurt_bytes(rng, data)


def hurt_dicom(rng: random.Random, name: str, data: bytes) -> bytes:
    """Other bytes, or another value with the right length in one element of an explicit little-endian file."""
    if rng.random() < 0.4:
        return hurt_bytes(rng, data, 1500)
    for _ in range(rng.choice((1, 1, 2))):
        start, value, end = rng.choice(list(_elements(data)))
        new = rng.choice(
            (rng.choice(WORDS).encode(), data[value:end] * 2, rng.randbytes(4), str(rng.choice(NUMBERS)).encode())
        )
        new += b" " * (len(new) % 2)
        size = len(new).to_bytes(4 if value - start == 12 else 2, "little")
        head = data[start : value - len(size)] + size
        data = data[:start] + (b"" if rng.random() < 0.2 else head + new) + data[end:]
    return data


def _elements(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(first byte, first byte of the value, end) of each element."""
    at = 132
    while at + 8 <= len(data):
        long = data[at + 4 : at + 6] in (b"OB", b"OW", b"OF", b"SQ", b"UT", b"UN", b"UC", b"UR")
        value = at + (12 if long else 8)
        end = value + int.from_bytes(data[at + 8 : at + 12] if long else data[at + 6 : at + 8], "little")
        yield at, value, min(end, len(data))
        at = end


def hurt_card(rng: random.Random, name: str, data: bytes) -> bytes:
    return hurt_text(rng, data.decode())


def hurt_safetensors(rng: random.Random, name: str, data: bytes) -> bytes:
    if rng.random() < 0.3:
        return hurt_bytes(rng, data, 200)
    size = int.from_bytes(data[:8], "little")
    head = hurt_text(rng, data[8 : 8 + size].decode())
    return len(head).to_bytes(8, "little") + head + data[8 + size :]


def hurt_torch(rng: random.Random, name: str, data: bytes) -> bytes:
    """The file's own bytes, or those of a member of its archive, which is whole then."""
    if data[:2] != b"PK" or rng.random() < 0.2:
        return hurt_bytes(rng, data, len(data))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    pick = next(m for m in members if m.endswith("data.pkl")) if rng.random() < 0.7 else rng.choice(list(members))
    members[pick] = hurt_bytes(rng, members[pick])
    if rng.random() < 0.1:
        del members[rng.choice(list(members))]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for member, content in members.items():
            archive.writestr(zipfile.ZipInfo(member), content)
    return out.getvalue()


def hurt_onnx(rng: random.Random, name: str, data: bytes) -> bytes:
    """Other bytes, or other fields in messages of a whole file."""
    import onnx

    if rng.random() < 0.4:
        return hurt_bytes(rng, data)
    model = onnx.load_model_from_string(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        message = rng.choice(list(_messages(model)))
        field = rng.choice(message.DESCRIPTOR.fields)
        if rng.random() < 0.2:
            message.ClearField(field.name)
            continue
        with suppress(ValueError, TypeError, AttributeError):
            old = getattr(message, field.name)
            if field.message_type is not None:
                old.add().SetInParent() if hasattr(old, "add") else old.SetInParent()
                continue
            new: Any = rng.choice(
                (rng.choice(NUMBERS), rng.choice(WORDS), rng.choice(WORDS).encode(), rng.choice(FLOATS))
            )
            old.append(new) if hasattr(old, "append") else setattr(message, field.name, new)
    return bytes(model.SerializeToString(deterministic=True))


def _messages(message: Any) -> Iterator[Any]:
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value if hasattr(value, "add") else (value,):
                yield from _messages(inner)


# ---- valid files ----------------------------------------------------------------------------------------------------


def scans() -> list[Files]:
    one, two = b"".join(nifti_bytes()), b"".join(nifti_bytes(version=2))
    header, voxels = nifti_bytes(pair=True)
    return [
        {"a.nii": one},
        {"a.nii": b"".join(nifti_bytes(order=">", scl_slope=2, scl_inter=-3))},
        {"a.nii.gz": gzip.compress(one, mtime=0)},
        {"a.nii": two},
        {"a.nii.gz": gzip.compress(two, mtime=0)},
        {"a.hdr": header, "a.img": voxels},
    ]


def nrrds() -> list[Files]:
    voxels = counting().tobytes(order="F")
    head = (
        "NRRD0005\n# made for the tests\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 5 4 3\n"
        "space directions: (2,0,0) (0,3,0) (0,0,4)\nkinds: domain domain domain\nendian: little\n"
        'encoding: raw\nspace origin: (10,-20,30)\nspace units: "mm" "mm" "mm"\n'
    )
    spacings = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 5 4 3\nspacings: 2 3 4\nencoding: ascii\n"
    return [
        {"a.nrrd": head.encode() + b"\n" + voxels},
        {"a.nrrd": head.replace("raw", "gzip").encode() + b"\n" + gzip.compress(voxels, mtime=0)},
        {"a.nhdr": head.encode() + b"data file: a.raw\n\n", "a.raw": voxels},
        {"a.nrrd": spacings.encode() + b"\n" + " ".join(map(str, range(60))).encode()},
    ]


def metas() -> list[Files]:
    import zlib

    voxels = counting().tobytes(order="F")
    packed = zlib.compress(voxels)
    head = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = False\n"
        "TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 10 -20 30\nCenterOfRotation = 0 0 0\nElementSpacing = 2 3 4\n"
        "DimSize = 5 4 3\nElementType = MET_SHORT\n"
    )
    small = head.replace("CompressedData = False", f"CompressedData = True\nCompressedDataSize = {len(packed)}")
    return [
        {"a.mha": head.encode() + b"ElementDataFile = LOCAL\n" + voxels},
        {"a.mha": small.encode() + b"ElementDataFile = LOCAL\n" + packed},
        {"a.mhd": head.encode() + b"ElementDataFile = a.raw\n", "a.raw": voxels},
    ]


def mghs() -> list[Files]:
    header = struct.pack(">7ih15f", 1, 5, 4, 3, 1, 4, 0, 1, 2, 3, 4, -1, 0, 0, 0, 0, -1, 0, 1, 0, 10, 20, 30)
    whole = header.ljust(284, b"\0") + counting().astype(">i2").tobytes(order="F") + struct.pack(">4f", 1, 2, 3, 4)
    return [{"a.mgh": whole}, {"a.mgz": gzip.compress(whole, mtime=0)}]


def slices() -> list[Files]:
    from dicom_phantom import phantom, series

    with tempfile.TemporaryDirectory() as folder:
        series(Path(folder), phantom((3, 5, 4)))
        whole = {f.name: f.read_bytes() for f in sorted(Path(folder).iterdir())}
        series(Path(folder), phantom((3, 5, 4)), modality="MR")
        return [whole, {f.name: f.read_bytes() for f in sorted(Path(folder).iterdir())}]


def cards() -> list[Files]:
    full = {
        **CARD,
        "sha256": "0" * 64,
        "onnx": "model.onnx",
        "onnx_sha256": "0" * 64,
        "colours": {"liver": "#aa5500"},
        "prefer": ["CT"],
    }
    regions = {**CARD, "regions": {"trunk": [1, 2], "organs": [2, 3]}, "intensity": [{"step": "zscore"}]}
    recipes = Path(__file__).parent.parent / "weights" / "recipes"
    stored = [f.read_bytes() for f in sorted(recipes.rglob("*.json"))[:6]]
    return [{"model.json": data} for data in (*(json.dumps(c).encode() for c in (CARD, full, regions)), *stored)]


def graphs() -> list[Files]:
    import onnx

    weight, bias = affine()
    plain = onnx_file(weight, bias, (32, 32, 32))
    model = onnx.load_model_from_string(plain)
    for key, value in (("segcli_card", json.dumps(CARD)), ("segcli_certificate", json.dumps({"sources": ["0"]}))):
        model.metadata_props.add(key=key, value=value)
    return [{"model.onnx": plain}, {"model.onnx": model.SerializeToString(deterministic=True)}]


def tables() -> list[Files]:
    from safetensors.numpy import save

    from segcli.models.embedded import METADATA_KEY
    from segcli.networks import registry

    registry.nearest(())  # every family is built once, which takes seconds and belongs to no file
    weight, bias = affine()
    tensors = {"conv.weight": weight, "conv.bias": bias}
    return [
        {"a.safetensors": save(tensors)},
        {"a.safetensors": save(tensors, metadata={METADATA_KEY: json.dumps(CARD)})},
        {"a.safetensors": save({n: t.astype(np.float16) for n, t in tensors.items()})},
    ]


def checkpoints() -> list[Files]:
    import torch

    from segcli.networks import registry

    registry.nearest(())
    state = {name: torch.from_numpy(a) for name, a in zip(("conv.weight", "conv.bias"), affine(), strict=True)}
    trained = {"epoch": 3, "state_dict": {f"module.{n}": t for n, t in state.items()}, "loss": np.float64(0.5)}
    out = []
    for content, new in ((state, True), (trained, True), (state, False)):
        buffer = io.BytesIO()
        torch.save(content, buffer, _use_new_zipfile_serialization=new)
        out.append({"a.pt": buffer.getvalue()})
    return out


# ---- readers --------------------------------------------------------------------------------------------------------


def feed_scan(path: Path) -> None:
    from segcli import formats

    volume = formats.read([path])
    assert volume.data.shape[1:] == volume.grid.shape, f"{volume.data.shape} voxels on a grid of {volume.grid.shape}"


def feed_series(path: Path) -> None:
    feed_scan(path.parent)


def feed_card(path: Path) -> None:
    from segcli.models.library import read_card

    read_card(path.parent)


def feed_weights(path: Path) -> None:
    from segcli.models import checkpoint, imports, weights

    with suppress(SegcliError):
        imports.inspect(path)
    with suppress(SegcliError):
        if path.suffix == ".safetensors":
            from segcli.models.library import find

            find(str(path))
    weights.filled_network(
        checkpoint.innermost_table(checkpoint.read(path)), "pointwise.Pointwise", _arguments(), path.name
    )


def _arguments() -> dict[str, Any]:
    return {"in_chans": 1, "out_chans": 6}


def feed_graph(path: Path) -> None:
    from segcli.engines.export import onnx_file
    from segcli.engines.onnx_engine import OnnxEngine
    from segcli.models import imports
    from segcli.models.library import find

    for reader in (imports.inspect, lambda p: find(str(p))):
        with suppress(SegcliError):
            reader(path)
    file = onnx_file.read(path.read_bytes(), path.name, organs_card())
    engine = OnnxEngine(file, device="cpu", threads=1, batch=1, max_vram=None)
    engine.run(np.zeros((1, *file.shape), np.float32))


@cache
def organs_card() -> Any:
    from segcli.models.library import read_card

    with tempfile.TemporaryDirectory() as folder:
        return read_card(organs(Path(folder)))


KINDS = {
    "nifti": Kind(scans, hurt_scan, feed_scan),
    "nrrd": Kind(nrrds, hurt_nrrd, feed_scan),
    "metaimage": Kind(metas, hurt_meta, feed_scan),
    "mgh": Kind(mghs, hurt_scan, feed_scan),
    "dicom": Kind(slices, hurt_dicom, feed_series),
    "card": Kind(cards, hurt_card, feed_card),
    "onnx": Kind(graphs, hurt_onnx, feed_graph),
    "safetensors": Kind(tables, hurt_safetensors, feed_weights),
    "torch": Kind(checkpoints, hurt_torch, feed_weights),
}


# ---- running --------------------------------------------------------------------------------------------------------


class Slow(BaseException):
    """More than LONGEST seconds: no handler of ours or a library's takes it for a file's fault."""


def damaged(kind: str, seed: int) -> Files:
    """The files that kind and seed decide, one of them damaged."""
    rng = random.Random(f"{kind} {seed}")
    files = dict(rng.choice(_made(kind)))
    victim = rng.choice(list(files))
    files[victim] = KINDS[kind].hurt(rng, victim, files[victim])
    return files


@cache
def _made(kind: str) -> list[Files]:
    return KINDS[kind].made()


def read(kind: str, files: Files, folder: Path) -> str:
    """ "read" or "refused"; anything else is raised. The folder is emptied first."""
    for old in folder.iterdir():
        old.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    _loaded()
    with _limited(), warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            KINDS[kind].feed(folder / next(iter(files)))
        except SegcliError:
            return "refused"
    return "read"


@cache
def _loaded() -> None:
    """The libraries are there: the seconds that they take on a busy machine are no file's."""
    for name in ("segcli.models.imports", "segcli.engines.onnx_engine", "onnxruntime", "pydicom", "nibabel"):
        importlib.import_module(name)


@contextmanager
def _limited() -> Iterator[None]:
    def late(number: int, frame: FrameType | None) -> None:
        raise Slow(f"over {LONGEST} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(LONGEST)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def search(kind: str, first: int, seconds: float, seed: Any, counts: Any) -> None:
    """Damage and read until the time is over; findings are printed once for each place they come from."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 2)  # libraries' own complaints
    seen = set()
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        seed.value = first
        while time.monotonic() < end:
            try:
                counts[read(kind, damaged(kind, seed.value), Path(folder)) == "refused"] += 1
            except (Exception, Slow) as error:
                last = traceback.extract_tb(error.__traceback__)[-1]
                if (place := (type(error), last.filename, last.lineno)) not in seen:
                    seen.add(place)
                    counts[2] += 1
                    print(f"finding: {kind}, seed {seed.value}\n{traceback.format_exc()}", flush=True)
            seed.value += 1


def main(arguments: list[str]) -> int:
    first = int(arguments.pop(at)) if (at := _option(arguments)) is not None else 0
    seconds = float(arguments.pop(0)) if arguments and arguments[0][0].isdigit() else 20
    found = 0
    context = multiprocessing.get_context("fork")
    for kind in arguments or KINDS:
        seed, counts = context.Value("q", first), context.Array("q", 3)
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            process = context.Process(target=search, args=(kind, seed.value, left, seed, counts))
            process.start()
            process.join()
            if process.exitcode:
                counts[2] += 1
                print(f"finding: {kind}, seed {seed.value}: the process ended with {process.exitcode}", flush=True)
                seed.value += 1
        print(f"{kind}: {counts[0]} read, {counts[1]} refused, {counts[2]} findings", flush=True)
        found += counts[2]
    return 1 if found else 0


def _option(arguments: list[str]) -> int | None:
    """Where the number after --from is, now that --from is gone."""
    if "--from" not in arguments:
        return None
    at = arguments.index("--from")
    del arguments[at]
    return at


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
