"""A model as one ONNX file that can be trusted: written after it was compared, and checked again any time."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from segcli import formats
from segcli.documents import Document
from segcli.engines.export.certificate import DIGEST_KEY, current_samples, digest, relative_error, runtimes, versions
from segcli.engines.export.onnx_file import CERTIFICATE_KEY, parsed, props
from segcli.errors import EngineError, ModelError
from segcli.formats import atomic
from segcli.formats.atomic import whole_file
from segcli.formats.streams import bytes_of
from segcli.inference.prepare import check_channels, finite, prepare
from segcli.inference.windows import padded, windows
from segcli.models.card import ModelCard, parse
from segcli.models.embedded import METADATA_KEY, is_export
from segcli.space.volume import Volume

if TYPE_CHECKING:
    from segcli.formats import Form

_SCAN_WINDOWS = 2
_DRIFT = 1e-3  # relative error of single logits that another version of a runtime may have


def export_onnx(
    card: ModelCard,
    path: Path,
    *,
    opset: int = 17,
    half: bool = False,
    verify: Path | None = None,
    affine: Form | None = None,
) -> Document:
    """Write a card's network as ONNX, compared with torch in every CPU engine before the file gets its name.

    verify   a scan on whose windows it is compared too, beside seeded noise; affine: what counts in its NIfTI header
    returns  the certificate that the file holds
    errors   ModelError (78): not exportable, or the answers differ; OutputError: cannot write; OutputExists (73), as
             `unclaimed`, also of what came there meanwhile
    """
    if find_spec("torch") is None:
        raise EngineError("torch is not installed: exporting a network needs it", hint="pip install torch")
    from segcli.engines.export.graph import certified

    shown = scan_windows(card, verify, affine) if verify else {}
    data = certified(card, shown, opset=opset, half=half)
    with whole_file(path, lambda _: unclaimed(path)) as file:
        file.write(data)
    certificate: Document = json.loads(props(parsed(data, path.name))[CERTIFICATE_KEY])
    return certificate


def unclaimed(path: Path) -> None:
    """Refuse to write over what is no network that segcli exported; OutputExists (73)."""
    atomic.unclaimed(path, own=lambda _: is_export(path))


def scan_windows(card: ModelCard, path: Path, affine: Form | None = None) -> Mapping[str, NDArray[np.float32]]:
    """The brightest of a scan's windows, (1, C, d, h, w) each, prepared as the card says."""
    scan = formats.read([path], affine=affine, channels=len(card.channels))
    check_channels(scan, card.procedure)
    prepared = prepare(finite(scan)[0], card.procedure)
    image: Volume
    image, _ = padded(prepared.image, card.window, prepared.outside)
    places = windows(image.grid.shape, card.window)
    cut = [np.ascontiguousarray(image.data[(slice(None), *w.at)], np.float32) for w in places]
    order = sorted(range(len(cut)), key=lambda i: -float(np.abs(cut[i] - prepared.outside[:, None, None, None]).mean()))
    return {f"scan {i}": cut[i][None] for i in order[:_SCAN_WINDOWS]}


def verify(path: Path) -> Document:
    """The certificate of an exported file, once its digest fits and every engine here still answers as it says.

    errors   ModelError (78): no export of segcli, changed since, or an engine that drifted from the certificate
    """
    data = bytes_of(path, ModelError)
    model = parsed(data, path.name)
    notes = props(model)
    missing = {METADATA_KEY, CERTIFICATE_KEY, DIGEST_KEY} - notes.keys()
    if missing:
        raise ModelError(
            f"{path.name}: holds no {min(missing)}: it was not exported by segcli",
            hint="`segcli export-onnx` makes files that can be verified",
        )
    found = digest(model)
    if found != notes[DIGEST_KEY] or model.SerializeToString(deterministic=True) != data:
        raise ModelError(
            f"{path.name}: was changed after its export: its digest is {found}, the file says {notes[DIGEST_KEY]}",
            hint="export the model again",
        )
    certificate: Document = json.loads(notes[CERTIFICATE_KEY])
    card = parse({**json.loads(notes[METADATA_KEY]), "onnx": path.name, "weights": []}, path.resolve().parent)
    wanted = np.frombuffer(base64.b64decode(certificate["samples"]), "<f4")
    for runtime in runtimes():
        apart = relative_error(current_samples(card, data, runtime), wanted)
        allowed = max(_DRIFT, 4 * certificate["max_relative_error"])
        if not apart <= allowed:
            raise ModelError(
                f"{path.name}: {runtime} {versions()[runtime]} drifted from the certificate: relative error "
                f"{apart:.1e}, at most {allowed:.0e}",
                hint=f"the file was made with {certificate['versions'].get(runtime, 'no')} {runtime}",
            )
    return certificate
