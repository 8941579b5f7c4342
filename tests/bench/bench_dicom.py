"""How long 300 uncompressed slices take: segcli's reader beside GDCM through SimpleITK, the best of some turns.

    python tests/bench/bench_dicom.py [FOLDER]

Without a folder a series of 300 slices of 512 x 512 is made in a temporary one. Both read from the page cache.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

sys.path.insert(0, str(Path(__file__).parent.parent / "formats" / "dicom"))
from dicom_phantom import series

from segcli.formats.dicom import series as dicom

TURNS = 7


def by_gdcm(folder: Path) -> Any:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return sitk.GetArrayFromImage(reader.Execute())


def seconds(read: Callable[[], Any]) -> float:
    start = time.perf_counter()
    read()
    return time.perf_counter() - start


def compare(folder: Path) -> dict[str, float]:
    np.testing.assert_array_equal(dicom.read(folder).data[0], by_gdcm(folder))
    ours, theirs = [], []
    for _ in range(TURNS):  # in turns, so that what else the machine does meets both
        ours.append(seconds(lambda: dicom.read(folder)))
        theirs.append(seconds(lambda: by_gdcm(folder)))
    return {"segcli_s": min(ours), "gdcm_s": min(theirs), "ratio": min(ours) / min(theirs)}


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(compare(Path(sys.argv[1]))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        hu = np.random.default_rng(0).integers(-1000, 1500, (300, 512, 512)).astype(np.int16)
        print(json.dumps(compare(series(Path(temporary), hu))))


if __name__ == "__main__":
    main()
