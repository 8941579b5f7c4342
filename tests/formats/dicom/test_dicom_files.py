"""Transfer syntaxes, and files that lie about themselves."""

from __future__ import annotations

import errno
import functools
import re
import struct
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import jpeg_ls
import libjpeg
import numpy as np
import pydicom
import pytest
from dicom_phantom import affine, enhanced, phantom, series
from numpy.typing import NDArray
from openjpeg.utils import encode_array
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from segcli.errors import Denied, EngineError, InputError, SegcliError
from segcli.formats.dicom import code_streams, files, pixels, search
from segcli.formats.dicom import series as dicom
from segcli.formats.dicom.code_streams import are_runs
from segcli.formats.dicom.frames import DISTINGUISHING

LARGER = phantom((2, 40, 40), 1)  # the JPEG 2000 encoder wants at least 32 pixels each way


def compress(folder: Path, syntax: str, **options: int) -> Path:
    for file in folder.iterdir():
        ds = pydicom.dcmread(file)
        ds.compress(syntax, generate_instance_uid=False, **options)
        ds.save_as(file)
    return folder


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_4_10_native_syntaxes_give_the_same_voxels(tmp_path: Path, syntax: str) -> None:
    np.testing.assert_array_equal(dicom.read(series(tmp_path / "ct", syntax=syntax)).data[0], phantom())


def misstated(folder: Path, syntax: str) -> Path:
    """The files with another transfer syntax in their first group than the data set behind it has."""
    for file in folder.iterdir():
        data = file.read_bytes()
        start = 144 + int.from_bytes(data[140:144], "little")
        meta = pydicom.dcmread(file).file_meta
        meta.TransferSyntaxUID = syntax
        head = BytesIO()
        write_file_meta_info(head, meta)
        file.write_bytes(data[:132] + head.getvalue() + data[start:])
    return folder


@pytest.mark.parametrize(
    ("said", "true"),
    [(ImplicitVRLittleEndian, ExplicitVRLittleEndian), (ExplicitVRLittleEndian, ImplicitVRLittleEndian)],
)
def test_4_10_a_file_whose_syntax_is_misstated_has_the_voxels_that_it_has(tmp_path: Path, said: str, true: str) -> None:
    scan = dicom.read(misstated(series(tmp_path / "ct", syntax=true), said))
    np.testing.assert_array_equal(scan.data[0], phantom())
    assert scan.source.warnings == ()


def test_4_1_compressed_pixels_under_an_uncompressed_syntax_are_refused_as_that(tmp_path: Path) -> None:
    folder = misstated(compress(series(tmp_path / "ct"), RLELossless), ExplicitVRLittleEndian)
    with pytest.raises(InputError, match="its pixels are compressed, though its syntax is Explicit VR Little Endian"):
        dicom.read(folder)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless])
def test_4_9_samples_in_the_upper_bits_of_their_words_are_read_in_every_syntax(tmp_path: Path, syntax: str) -> None:
    def each(ds: Dataset, k: int) -> None:
        ds.HighBit = 15
        ds.PixelData = (np.frombuffer(ds.PixelData, "<u2") << 4 | 3).astype("<u2").tobytes()
        if syntax == RLELossless:
            ds.PixelData = encapsulate([rle(np.frombuffer(ds.PixelData, "<u2"))])
            ds["PixelData"].is_undefined_length = True

    np.testing.assert_array_equal(dicom.read(series(tmp_path / "ct", each=each, syntax=syntax)).data[0], phantom())


def test_4_9_samples_of_a_code_stream_that_are_said_to_lie_in_upper_bits_are_refused(tmp_path: Path) -> None:
    folder = compress(series(tmp_path / "ct", LARGER), JPEGLSLossless)
    for file in folder.iterdir():
        ds = pydicom.dcmread(file)
        ds.HighBit = 15
        ds.save_as(file)
    with pytest.raises(InputError, match="12 of 16 bits, highest bit 15: not a data type that is read"):
        dicom.read(folder)


def rle(words: NDArray[np.uint16]) -> bytes:
    """Words as DICOM packs them by run lengths (PS3.5 G), no run used: the upper bytes, then the lower ones."""
    parts = [words.astype(">u2").view(np.uint8)[i::2].tobytes() for i in range(2)]
    packed = [b"".join(bytes([len(p[i : i + 128]) - 1]) + p[i : i + 128] for i in range(0, len(p), 128)) for p in parts]
    packed = [p + bytes(len(p) % 2) for p in packed]
    return struct.pack("<16I", 2, 64, 64 + len(packed[0]), *[0] * 13) + b"".join(packed)


def test_4_10_files_without_preamble_are_read(tmp_path: Path) -> None:
    np.testing.assert_array_equal(dicom.read(series(tmp_path / "ct", preamble=False)).data[0], phantom())


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_4_10_lossless_compression_gives_the_same_voxels(tmp_path: Path, syntax: str) -> None:
    scan = dicom.read(compress(series(tmp_path / "ct", LARGER), syntax))
    np.testing.assert_array_equal(scan.data[0], LARGER)
    assert scan.source is not None
    assert scan.source.warnings == ()


PERMISSION = PermissionError(errno.EACCES, "Permission denied")
REASONS = [
    (PERMISSION, Denied, "a-003.dcm: permission denied", "make the file readable"),
    (OSError(errno.EIO, "Input/output error"), InputError, "a-003.dcm: cannot be read: Input/output error", "disk"),
]


@pytest.mark.parametrize(("error", "kind", "words", "hint"), REASONS)
@pytest.mark.parametrize("time", [1, 2, 3])  # its first bytes, its header, its pixels
def test_4_1_a_slice_that_cannot_be_opened_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, time: int, error: OSError, kind: Any, words: str, hint: str
) -> None:
    folder, times, plain = series(tmp_path / "ct"), iter(range(1, 9)), Path.open

    def opened(self: Path, mode: str) -> Any:
        if self.name == "a-003.dcm" and next(times) == time:
            raise error
        return plain(self, mode)

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(kind, match=words) as caught:
        dicom.read(folder)
    assert hint in str(caught.value.hint)


@pytest.mark.parametrize(("error", "kind", "words", "hint"), REASONS)
def test_4_1_a_compressed_slice_that_cannot_be_opened_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, kind: Any, words: str, hint: str
) -> None:
    file = files.open_file(compress(series(tmp_path / "ct"), RLELossless) / "a-003.dcm")

    def refuse(*args: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(pydicom, "dcmread", refuse)
    with pytest.raises(kind, match=words) as caught:
        pixels.voxels(file)
    assert hint in str(caught.value.hint)
    file.forget()
    with pytest.raises(kind, match=words):
        file.text("Modality")


def test_4_1_slices_in_a_folder_that_may_be_listed_and_not_entered_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, plain = series(tmp_path / "ct"), Path.stat

    def looked_at(self: Path, **options: Any) -> Any:
        if self.name == "a-003.dcm":
            raise PERMISSION
        return plain(self, **options)

    monkeypatch.setattr(Path, "stat", looked_at)
    with pytest.raises(Denied, match=r"a-003.dcm: permission denied \(make its folder readable"):
        dicom.read(folder)


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless])
def test_4_10_signed_values_survive_compression(tmp_path: Path, syntax: str) -> None:
    scan = dicom.read(compress(series(tmp_path / "mr", LARGER, modality="MR"), syntax))
    np.testing.assert_array_equal(scan.data[0], LARGER)


def of_2000(folder: Path, coded: NDArray[Any], bits: int, said: int, signed: bool) -> Path:
    """A series whose slices are JPEG 2000 code streams of samples of so many bits, and a header that says others."""

    def each(ds: Dataset, k: int) -> None:
        ds.RescaleIntercept, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 0, said, said - 1, int(signed)
        ds.PixelData = encapsulate([encode_array(coded[k], bits_stored=bits, photometric_interpretation=2)])
        ds["PixelData"].is_undefined_length = True

    return series(folder, coded.astype(np.int32), each=each, syntax=JPEG2000Lossless)


NOISE = np.random.default_rng(7).integers(0, 1 << 16, (3, 32, 32)).astype(np.uint16)
SMALL = (NOISE & 0x7FF).view(np.int16) - np.int16(1024)  # of 11 bits with a sign


@pytest.mark.parametrize(
    ("coded", "bits", "said", "signed"),
    [
        (NOISE, 16, 12, False),
        (SMALL, 12, 12, False),
        (NOISE.view(np.int16), 16, 16, False),
        (NOISE & 0xFFF, 12, 16, True),
        (NOISE.view(np.int16), 16, 12, True),
        (SMALL + np.int16(2000), 16, 12, True),
    ],
)
def test_4_9_a_code_stream_whose_values_its_header_contradicts_is_refused(
    tmp_path: Path, coded: NDArray[Any], bits: int, said: int, signed: bool
) -> None:
    streams = f"{'signed' if coded.dtype.kind == 'i' else 'unsigned'} samples of {bits} bits"
    header = f"{'signed' if signed else 'unsigned'} ones of {said} bits"
    with pytest.raises(InputError, match=f"a-000.dcm: its code stream has {streams}, {header} by its header"):
        dicom.read(of_2000(tmp_path / "ct", coded, bits, said, signed))


@pytest.mark.parametrize(
    ("coded", "bits", "said", "signed", "meant"),
    [
        (NOISE, 16, 16, True, NOISE.view(np.int16)),  # two's complement, as some encoders store it
        (SMALL.view(np.uint16) & 0xFFF, 12, 12, True, SMALL),
        (NOISE & 0x7FF, 12, 16, True, NOISE & 0x7FF),
        (NOISE & 0xFFF, 16, 12, False, NOISE & 0xFFF),
        (SMALL, 16, 12, True, SMALL),
        ((NOISE & 0xFF).astype(np.uint8), 8, 12, False, NOISE & 0xFF),
        (SMALL.view(np.uint16), 16, 12, True, SMALL),  # as dcm4che packs values with a sign: all bits of their words
    ],
)
def test_4_9_a_code_stream_of_other_bits_is_read_where_its_values_fit(
    tmp_path: Path, coded: NDArray[Any], bits: int, said: int, signed: bool, meant: NDArray[Any]
) -> None:
    np.testing.assert_array_equal(dicom.read(of_2000(tmp_path / "ct", coded, bits, said, signed)).data[0], meant)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_4_9_values_beyond_the_bits_with_a_sign_that_a_header_says_are_refused(tmp_path: Path, syntax: str) -> None:
    """A CT of -1024 to 3071 HU takes 13 bits; 12 would make dense bone air."""
    hu = np.linspace(-1024, 3071, 2 * 1600).astype(np.int16).reshape(40, 40, 2).transpose(2, 0, 1)
    tags = {"PixelRepresentation": 1, "RescaleIntercept": 0}
    sound = series(tmp_path / "sound", hu // 2 - 1024, **tags)
    np.testing.assert_array_equal(dicom.read(sound).data[0], hu // 2)
    shifted = series(tmp_path / "shifted", hu // 16 * 16 - 1024, HighBit=15, **tags)  # the same words, of 12 upper bits
    np.testing.assert_array_equal(dicom.read(shifted).data[0], hu // 16)
    folder = series(tmp_path / "ct", hu - 1024, **tags)
    with pytest.raises(
        InputError, match=r"a-000.dcm: its values from -1024 to 30\d+ need more than the 12 bits with a"
    ):
        dicom.read(compress(folder, syntax) if syntax == RLELossless else folder)


def test_4_9_overlays_above_the_samples_of_a_code_stream_are_masked(tmp_path: Path) -> None:
    folder = of_2000(tmp_path / "ct", NOISE, 16, 12, False)
    for path in folder.iterdir():
        ds = pydicom.dcmread(path)
        ds.add_new((0x6000, 0x0102), "US", 12)
        ds.save_as(path)
    np.testing.assert_array_equal(dicom.read(folder).data[0], NOISE & 0xFFF)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_4_9_samples_that_do_not_lie_in_the_upper_bits_where_they_are_said_to_are_refused(
    tmp_path: Path, syntax: str
) -> None:
    folder = series(tmp_path / "ct", LARGER, HighBit=15)
    with pytest.raises(InputError, match=r"lie in the bits 4 to 15 of their words, and look as if .* lowest 12"):
        dicom.read(compress(folder, RLELossless) if syntax == RLELossless else folder)


def test_4_10_loss_is_said(tmp_path: Path) -> None:
    scan = dicom.read(compress(series(tmp_path / "ct"), JPEGLSNearLossless, jls_error=2))
    assert np.abs(scan.data[0] - phantom()).max() <= 2
    assert scan.source is not None
    assert "compressed with loss (JPEG-LS Lossy (Near-Lossless)" in scan.source.warnings[0]


@pytest.mark.parametrize(("said", "warned"), [("", True), ("01", True), ("00", False)])
def test_4_10_a_syntax_that_may_be_without_loss_is_called_lossy_unless_the_header_denies_it(
    tmp_path: Path, said: str, warned: bool
) -> None:
    folder = compress(series(tmp_path / "ct", LossyImageCompression=said), JPEGLSNearLossless, jls_error=0)
    for file in folder.iterdir():  # what was compressed just now says nothing of itself
        ds = pydicom.dcmread(file)
        ds.LossyImageCompression = said
        ds.save_as(file)
    assert any("compressed with loss" in w for w in dicom.read(folder).source.warnings) == warned


def test_4_10_loss_before_the_pixels_were_unpacked_is_said(tmp_path: Path) -> None:
    scan = dicom.read(series(tmp_path / "ct", LossyImageCompression="01", LossyImageCompressionRatio=12))
    assert scan.source.warnings == ("once compressed with loss",)


def coded_with_loss(syntax: str, image: NDArray[np.uint8]) -> bytes:
    """An image coded with loss, by a process of the family that a syntax names."""
    if syntax == JPEGLSLossless:
        return bytes(jpeg_ls.encode_array(image, lossy_error=2))
    if syntax == JPEG2000Lossless:
        return bytes(encode_array(image, compression_ratios=[4]))
    file = BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=60)
    return file.getvalue()


@pytest.mark.parametrize("syntax", [JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless])
def test_4_10_loss_in_a_code_stream_is_said_under_a_syntax_without(tmp_path: Path, syntax: str) -> None:
    images = (np.indices((3, 40, 40)).sum(axis=0) * 2).astype(np.uint8)

    def packed(ds: Dataset, k: int) -> None:
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
        ds.RescaleIntercept, ds.LossyImageCompression = 0, "00"
        ds.PixelData = encapsulate([coded_with_loss(syntax, images[k])])
        ds["PixelData"].is_undefined_length = True

    scan = dicom.read(series(tmp_path / "ct", np.zeros((3, 40, 40), np.int16), each=packed, syntax=syntax))
    told = f"compressed with loss, though its syntax is one without ({files.uid_name(syntax)})"
    assert scan.source is not None
    assert scan.source.warnings == (told,)
    assert 0 < np.abs(scan.data[0] - images).max() < 20


@pytest.mark.parametrize("bits", [12, 16])
def test_4_10_jpeg_lossless_of_scanners_is_read(tmp_path: Path, bits: int) -> None:
    noise = np.random.default_rng(4).integers(0, 1 << bits, (3, 19, 23))

    def packed(ds: Dataset, k: int) -> None:
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation = bits, bits - 1, 0
        ds.RescaleIntercept = 0
        ds.PixelData = encapsulate([jpeg_lossless(noise[k], bits)])
        ds["PixelData"].is_undefined_length = True

    made = series(tmp_path / "ct", np.zeros((3, 19, 23), np.int16), each=packed, syntax=JPEGLosslessSV1)
    np.testing.assert_array_equal(dicom.read(made).data[0], noise)


def jpeg_lossless(image: NDArray[Any], bits: int) -> bytes:
    """An image as scanners pack it: JPEG's lossless process 14, predicted from the pixel to the left (ITU-T T.81, H).

    Each of the 17 sizes of a difference has a code of 5 bits, which is a Huffman table as good as any here.
    """
    rows, columns = image.shape
    codes = "".join(f"{n:02x}" for n in [0, 0, 0, 0, 17, *[0] * 11]) + "".join(f"{n:02x}" for n in range(17))
    frame = f"ffc3000b{bits:02x}{rows:04x}{columns:04x}01011100"
    scan = "ffda0008" + "01" + "0100" + "01" + "00" + "00"
    predicted = np.empty_like(image)
    predicted[:, 1:] = image[:, :-1]
    predicted[1:, 0] = image[:-1, 0]
    predicted[0, 0] = 1 << (bits - 1)
    text = ""
    for difference in (int(v) for v in (image - predicted).ravel()):
        difference = (difference + 32768) % 65536 - 32768  # modulo 2^16
        size = abs(difference).bit_length()
        text += f"{size:05b}"
        if size and size < 16:  # -32768 has the size 16 and no further bits
            text += f"{difference if difference > 0 else difference + (1 << size) - 1:0{size}b}"
    text += "1" * (-len(text) % 8)
    stuffed = int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\x00")
    return bytes.fromhex(f"ffd8{frame}ffc4{3 + 16 + 17:04x}00{codes}{scan}") + stuffed + b"\xff\xd9"


def jpeg(image: NDArray[Any], **options: int) -> bytes:
    """An image as a baseline JPEG."""
    file = BytesIO()
    Image.fromarray(image.astype(np.uint8)).save(file, "JPEG", quality=90, **options)
    return file.getvalue()


def in_parts(image: NDArray[Any]) -> bytes:
    """A lossless JPEG of 12 bits with a restart marker behind each line."""
    whole, *lines = (jpeg_lossless(part, 12) for part in (image, *image[:, None]))
    scan = whole.index(b"\xff\xda")
    interval = b"\xff\xdd\0\4" + image.shape[1].to_bytes(2, "big")
    parts = [line[scan + 10 : -2] + bytes([0xFF, 0xD0 + k % 8]) for k, line in enumerate(lines)]
    return whole[:scan] + interval + whole[scan : scan + 10] + b"".join(parts)[:-2] + b"\xff\xd9"


PICTURE = np.random.default_rng(4).integers(0, 256, (3, 19, 23))
JPEGS = {  # as scanners and archives code them: syntax, bits, coder
    "baseline": (JPEGBaseline8Bit, 8, jpeg),
    "baseline with restarts": (JPEGBaseline8Bit, 8, functools.partial(jpeg, restart_marker_blocks=2)),
    "lossless": (JPEGLosslessSV1, 12, lambda image: jpeg_lossless(image, 12)),
    "lossless with restarts": (JPEGLosslessSV1, 12, in_parts),
}


def of_jpeg(folder: Path, syntax: str, bits: int, streams: Sequence[bytes]) -> Path:
    """A series whose slices are code streams of samples without a sign."""

    def packed(ds: Dataset, k: int) -> None:
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = -(-bits // 8) * 8, bits, bits - 1, 0
        ds.RescaleIntercept = 0
        ds.PixelData = encapsulate([streams[k]])
        ds["PixelData"].is_undefined_length = True

    return series(folder, np.zeros((3, 19, 23), np.int16), each=packed, syntax=syntax)


@pytest.mark.parametrize("kind", JPEGS)
def test_4_1_a_jpeg_that_was_cut_short_is_refused_also_where_it_was_closed_again(tmp_path: Path, kind: str) -> None:
    """Its decoder fills up what is missing without a word; restart markers even hide where that begins."""
    syntax, bits, coded = JPEGS[kind]
    streams = [coded(image) for image in PICTURE]
    read = dicom.read(of_jpeg(tmp_path / "sound", syntax, bits, streams)).data[0]
    assert np.abs(read - PICTURE).max() < (1 if "lossless" in kind else 60)
    last = streams[2]
    start = last.index(b"\xff\xda") + 12
    restart = [at.start() for at in re.finditer(rb"\xff[\xd0-\xd7]", last[start:])][1:2]
    told = r"a-002.dcm: truncated: the code stream of its pixels ends before the picture does \(copy or export"
    for n, end in enumerate([start + (len(last) - start) // 2, len(last) - 4, *(start + at for at in restart)]):
        for tail in (b"\xff\xd9", b"", bytes(400)):
            cut = [*streams[:2], last[:end].rstrip(b"\xff") + tail]
            with pytest.raises(InputError, match=told):
                dicom.read(of_jpeg(tmp_path / f"{n}-{len(tail)}", syntax, bits, cut))


@pytest.mark.parametrize("behind", [b"", b"\0", b"\xff"])
@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_that_is_whole_but_for_the_marker_at_its_end_is_read(tmp_path: Path, kind: str, behind: bytes) -> None:
    syntax, bits, coded = JPEGS[kind]
    streams = [coded(image) for image in PICTURE]
    sound = dicom.read(of_jpeg(tmp_path / "sound", syntax, bits, streams)).data
    folder = of_jpeg(tmp_path / "ct", syntax, bits, [stream[:-2] + behind for stream in streams])
    np.testing.assert_array_equal(dicom.read(folder).data, sound)


def test_the_bits_behind_a_jpeg_tell_every_cut() -> None:
    for _, _, coded in JPEGS.values():
        whole = coded(PICTURE[0, :12, :13])
        sound = libjpeg.decode(whole)
        np.testing.assert_array_equal(libjpeg.decode(code_streams.lengthened(whole)), sound)
        for end in range(whole.index(b"\xff\xda") + 12, len(whole) - 2):
            cut = whole[:end].rstrip(b"\xff") + b"\xff\xd9"
            if code_streams.has_restarts(cut) and not np.array_equal(libjpeg.decode(cut), sound):
                with pytest.raises((RuntimeError, AssertionError)):
                    np.testing.assert_array_equal(libjpeg.decode(code_streams.lengthened(cut)), libjpeg.decode(cut))


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless])
def test_4_1_another_code_stream_without_an_end_is_refused(tmp_path: Path, syntax: str) -> None:
    folder = compress(series(tmp_path / "ct", LARGER), syntax)
    file = folder / "a-001.dcm"
    data = bytearray(file.read_bytes())
    end = data.rindex(b"\xff\xd9")
    data[end - 2 : end + 2] = bytes(4)
    file.write_bytes(data)
    with pytest.raises(InputError, match=r"a-001.dcm: truncated: the code stream of its pixels has no end"):
        dicom.read(folder)


@pytest.mark.parametrize("behind", [b"\0", b"\xff", b"\r\n"])
def test_what_follows_the_end_of_a_code_stream_is_nothing(tmp_path: Path, behind: bytes) -> None:
    noise = np.random.default_rng(4).integers(0, 4096, (3, 19, 23))

    def padded(ds: Dataset, k: int) -> None:
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation, ds.RescaleIntercept = 12, 11, 0, 0
        ds.PixelData = encapsulate([jpeg_lossless(noise[k], 12) + behind])
        ds["PixelData"].is_undefined_length = True

    folder = series(tmp_path / "ct", np.zeros((3, 19, 23), np.int16), each=padded, syntax=JPEGLosslessSV1)
    np.testing.assert_array_equal(dicom.read(folder).data[0], noise)


def test_4_10_other_syntaxes_are_refused_by_name(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct")
    for file in folder.iterdir():
        ds = pydicom.dcmread(file)
        ds.file_meta.TransferSyntaxUID = pydicom.uid.MPEG2MPML
        ds.PixelData = encapsulate([b"moving"])
        ds.save_as(file)
    with pytest.raises(InputError, match="unsupported transfer syntax MPEG2 Main Profile"):
        dicom.read(folder)


def test_a_missing_decoder_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Absent:
        available_plugins = ()

    monkeypatch.setattr(pixels, "get_decoder", lambda uid: Absent())
    folder = compress(series(tmp_path / "ct"), JPEGLSLossless)
    with pytest.raises(EngineError, match=r"no decoder for JPEG-LS .*pip install pyjpegls"):
        dicom.read(folder)


def test_4_1_compressed_pixels_that_end_early_are_refused(tmp_path: Path) -> None:
    folder = compress(series(tmp_path / "ct"), JPEGLSLossless)
    file = folder / "a-005.dcm"
    file.write_bytes(file.read_bytes()[:-12])
    with pytest.raises(InputError, match=r"a-005.dcm: truncated"):
        dicom.read(folder)


def test_a_code_stream_of_another_size_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    folder = compress(series(tmp_path / "ct", LARGER), JPEG2000Lossless)
    file = folder / "a-001.dcm"
    data = bytearray(file.read_bytes())
    at = data.index(b"\xff\x4f\xff\x51")
    data[at + 8 : at + 16] = struct.pack(">II", 60000, 60000)
    file.write_bytes(data)
    with pytest.raises(InputError, match=r"a-001.dcm: corrupt: pixels of 60000 x 60000, its header says 40 x 40"):
        dicom.read(folder)


def test_a_code_stream_that_cannot_be_decoded_is_corrupt(tmp_path: Path) -> None:
    folder = compress(series(tmp_path / "ct"), JPEGLSLossless)
    file = folder / "a-002.dcm"
    data = bytearray(file.read_bytes())
    at = data.index(b"\xff\xda")
    data[at + 2 : at + 12] = b"\xff" * 10
    file.write_bytes(data)
    with pytest.raises(InputError, match=r"a-002.dcm: corrupt: its pixels cannot be decoded"):
        dicom.read(folder)


def test_1_7_a_deflated_file_is_not_unpacked_without_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_UNPACKED_LIMIT", 100)
    with pytest.raises(InputError, match="corrupt"):
        dicom.read(series(tmp_path / "ct", syntax=DeflatedExplicitVRLittleEndian))


def test_1_7_a_deflated_file_with_a_long_first_group_is_not_unpacked_without_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transfer syntax stands behind an identifier of 2,000 bytes."""
    folder = series(tmp_path / "ct", syntax=DeflatedExplicitVRLittleEndian)
    for file in folder.iterdir():
        data = file.read_bytes()
        at = data.index(b"\x02\0\x03\0UI") + 6
        length = int.from_bytes(data[at : at + 2], "little")
        group = int.from_bytes(data[140:144], "little") + 2000
        long = struct.pack("<H", length + 2000) + b"1." * 1000
        file.write_bytes(data[:140] + struct.pack("<I", group) + data[144:at] + long + data[at + 2 :])
    np.testing.assert_array_equal(dicom.read(folder).data[0], phantom())
    monkeypatch.setattr(files, "_UNPACKED_LIMIT", 100)
    with pytest.raises(InputError, match="corrupt"):
        dicom.read(folder)


def test_4_10_a_first_group_that_does_not_state_its_length_is_read(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct")
    for file in folder.iterdir():
        data = file.read_bytes()
        rest = data[144:].removeprefix(b"\2\0\1\0OB\0\0\2\0\0\0\0\1")
        assert rest.startswith(b"\2\0\2\0UI")  # then its text stands where the length would be
        file.write_bytes(data[:132] + rest)
    np.testing.assert_array_equal(dicom.read(folder).data[0], phantom())


def test_4_1_pixels_of_a_line_more_in_each_frame_are_refused(tmp_path: Path) -> None:
    """The sizes of a file of its own, which no other slice contradicts: fewer rows or columns than there are."""
    file = enhanced(tmp_path / "mr.dcm", phantom(), affine())
    for keyword, size in {"Rows": 6, "Columns": 4}.items():
        ds = pydicom.dcmread(file)
        setattr(ds, keyword, size)
        ds.save_as(tmp_path / "damaged.dcm")
        with pytest.raises(InputError, match=r"damaged\.dcm: corrupt: 420 bytes of pixels, 3\d\d by its rows"):
            dicom.read(tmp_path / "damaged.dcm")


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_4_1_a_slice_that_was_transferred_as_text_is_refused(tmp_path: Path, syntax: str) -> None:
    folder = series(tmp_path / "ct", syntax=syntax)
    spoilt = folder / "a-002.dcm"
    ds = pydicom.dcmread(spoilt)
    ds.PixelData = ds.PixelData.replace(b"\n", b"\v")[:-20] + b"\n\4" * 10
    ds.save_as(spoilt)
    dicom.read(folder)
    spoilt.write_bytes(spoilt.read_bytes().replace(b"\n", b"\r\n"))
    with pytest.raises(InputError, match=r"a-002.dcm: corrupt: it was transferred as text"):
        dicom.read(folder)


@pytest.mark.parametrize("behind", [b"\0" * 9, b"<html>", b"\xfc\xff\xfc\xffOB\0\0\4\0\0\0\n\0\n\0"])
def test_bytes_behind_the_pixels_are_not_taken_for_them(tmp_path: Path, behind: bytes) -> None:
    folder = series(tmp_path / "ct")
    for file in folder.iterdir():
        file.write_bytes(file.read_bytes() + behind)
    np.testing.assert_array_equal(dicom.read(folder).data[0], phantom())


def test_bytes_behind_the_voxels_are_not_taken_for_voxels(tmp_path: Path) -> None:
    def longer(ds: pydicom.Dataset, k: int) -> None:
        ds.PixelData = ds.PixelData + b"\1\2\3\4"

    scan = dicom.read(series(tmp_path / "ct", each=longer))
    np.testing.assert_array_equal(scan.data[0], phantom())
    assert scan.source is not None
    assert "4 bytes follow the voxels and are not read" in scan.source.warnings[0]


def test_1_5_control_characters_of_a_file_name_are_not_repeated(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct")
    (folder / "\x1b[31mred").write_text("x")
    scan = dicom.read(folder)
    assert scan.source is not None
    assert scan.source.facts is not None
    assert scan.source.facts["unused"] == [{"file": "?[31mred", "reason": "not DICOM"}]


# What tells two volumes of a series apart: text and binary numbers, as their dictionary entry has them.
APART: dict[str, tuple[Any, Any]] = {
    "StackID": ("1", "2"),
    "TemporalPositionIndex": (1, 2),
    "TemporalPositionIdentifier": (1, 2),
    "EchoNumbers": (1, 2),
    "EffectiveEchoTime": (2.5, 12.5),
    "EchoTime": (2.5, 12.5),
    "InversionTime": (150.0, 900.0),
    "InversionTimes": (150.0, 900.0),
    "DiffusionBValue": (0.0, 1000.0),
    "DiffusionGradientOrientation": ([0.0, 1.0, 0.0], [0.6, 0.0, 0.8]),
    "SequenceName": ("ep_b0", "ep_b1000t"),
    "ASLContext": ("CONTROL", "LABEL"),
    "ComplexImageComponent": ("MAGNITUDE", "PHASE"),
    "ContrastBolusAgentPhase": ("IMMEDIATE", "PRE_CONTRAST"),
    "NominalPercentageOfRespiratoryPhase": (0.0, 40.0),
    "NominalRespiratoryTriggerDelayTime": (0.0, 412.5),
    "NominalPercentageOfCardiacPhase": (0.0, 40.0),
    "NominalCardiacTriggerDelayTime": (0.0, 412.5),
    "TriggerTime": (0, 412.5),
    "AcquisitionNumber": (1, 2),
    "FrameReferenceTime": (0.0, 5000.5),
    "ConvolutionKernel": ("B30f", "B70f"),
    "KVP": (80.0, 140.0),
    "FlipAngle": (5.0, 20.0),
    "RepetitionTime": (15.5, 3000.0),
    "SliceThickness": (3.0, 10.0),
    "FrameType": (["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"]),
    "ImageType": (["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"]),
}
NUMBERS = [11, 4, 7, 0, 9, 2, 5, 10, 1, 8, 3, 6]  # those of twelve slices, in no order


@pytest.mark.parametrize("key", DISTINGUISHING)
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_4_6_what_tells_volumes_apart_is_read_alike_in_every_native_syntax(
    tmp_path: Path, key: str, syntax: str
) -> None:
    for n, value in enumerate(APART[key]):

        def each(ds: pydicom.Dataset, k: int, n: int = n) -> None:
            ds.SOPInstanceUID, ds.InstanceNumber = f"1.2.{n}.{k}", NUMBERS[6 * n + k]

        series(tmp_path, phantom() + n, modality="MR", first=100 * n, syntax=syntax, each=each, **{key: value})
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", key).lower()
    for n, value in enumerate(APART[key]):
        scan = dicom.read(tmp_path, volume=n + 1)
        np.testing.assert_array_equal(scan.data[0], phantom() + n)
        assert scan.source is not None
        assert scan.source.facts is not None
        assert scan.source.facts["volume"] == f"{words} {in_words(value)}"


def in_words(value: Any) -> str:
    if isinstance(value, list):
        return "\\".join(value) if isinstance(value[0], str) else " ".join(f"{v:g}" for v in value)
    return value if isinstance(value, str) and not value.isdecimal() else f"{float(value):g}"


def test_8_bit_pixels_in_swapped_words_are_refused(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct", syntax=ExplicitVRBigEndian, BitsAllocated=8, BitsStored=8, HighBit=7)
    with pytest.raises(InputError, match="8-bit pixels in 16-bit words of the other byte order, which is not read"):
        dicom.read(folder)


def test_4_1_compressed_pixels_whose_fragments_are_none_are_refused(tmp_path: Path) -> None:
    folder = compress(series(tmp_path / "ct"), JPEGLSLossless)
    file = folder / "a-005.dcm"
    head, _, rest = file.read_bytes().rpartition(b"\xfe\xff\x00\xe0")
    file.write_bytes(head + b"\xfe\xff\x01\xe0" + rest)
    with pytest.raises(InputError, match=r"a-005.dcm: truncated: its pixels end early"):
        dicom.read(folder)


def test_bits_that_contradict_each_other_are_no_data_type(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="12 of 16 bits, highest bit 3: not a data type that is read"):
        dicom.read(series(tmp_path / "ct", HighBit=3))


def test_4_1_a_slice_that_is_cut_short_while_it_is_read_is_refused(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct")
    file = folder / "a-004.dcm"
    with pytest.raises(InputError, match=r"a-004.dcm: truncated: 60 of 70 bytes of pixels are there"):
        dicom.read(folder, seen=lambda grid: file.write_bytes(file.read_bytes()[:-10]))


def test_a_code_stream_of_no_known_size_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    folder = compress(series(tmp_path / "ct"), JPEGLSLossless)
    file = folder / "a-002.dcm"
    file.write_bytes(file.read_bytes().replace(b"\xff\xf7", b"\xff\xef", 1))  # a frame's start as an application's
    with pytest.raises(InputError, match=r"a-002.dcm: corrupt: pixels of no known size, its header says 7 x 5"):
        dicom.read(folder)


def test_4_1_compressed_frames_that_are_fewer_than_announced_are_refused(tmp_path: Path) -> None:
    file = enhanced(tmp_path / "mr.dcm", phantom(), affine())
    ds = pydicom.dcmread(file)
    ds.compress(JPEGLSLossless, generate_instance_uid=False)
    ds.PixelData = encapsulate(list(generate_frames(ds.PixelData, number_of_frames=6))[:5])
    ds.save_as(file)
    with pytest.raises(InputError, match=r"mr.dcm: truncated: 5 of 6 frames are there"):
        dicom.read(file)


def replaced(path: Path, old: bytes, new: bytes) -> None:
    """A file with some bytes changed, which are there once."""
    data = path.read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (b"\xe0\x7f\x10\0OW", b"\xe0\x7f\x10\0OQ", "corrupt: its pixels are of no type that there is"),
        (b"\xe0\x7f\x10\0OW\0\0", b"\xe0\x7f\x10\0OW\0\0\0", "truncated: 71 of 17920 bytes of pixels are there"),
    ],
)
def test_4_1_pixels_whose_element_is_damaged_are_not_read_a_byte_off(
    tmp_path: Path, old: bytes, new: bytes, told: str
) -> None:
    folder = series(tmp_path / "ct")
    replaced(folder / "a-005.dcm", old, new)
    with pytest.raises(InputError, match=f"a-005.dcm: {told}"):
        dicom.read(folder)


def test_4_1_a_last_slice_whose_class_is_damaged_is_refused(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct")
    path = folder / "a-005.dcm"
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.5.1.4.1.1.2", b"1.2.840.10000.5.1.4.1.1.2"))
    with pytest.raises(InputError, match=r"a-005\.dcm: corrupt: what kind of image it is cannot be read"):
        dicom.read(folder)


@pytest.mark.parametrize("kind", ["3", "7"])  # ultrasound is one bit away, a secondary capture two
def test_4_1_a_last_slice_whose_class_became_another_is_refused(tmp_path: Path, kind: str) -> None:
    """Where its first group says so too, by the place in which it lies."""
    old = b"1.2.840.10008.5.1.4.1.1.2"
    path = series(tmp_path / "ct") / "a-005.dcm"
    first, class_of, rest = path.read_bytes().rpartition(old)
    path.write_bytes(first + old[:-1] + kind.encode() + rest)
    with pytest.raises(InputError, match=r"a-005\.dcm: corrupt: what kind of image it is cannot be read"):
        dicom.read(path.parent)
    path.write_bytes((first + class_of + rest).replace(old, old[:-1] + kind.encode()))
    with pytest.raises(
        InputError, match=r"a-005\.dcm: .* Image.*, and lies as the slices do: the series may be longer"
    ):
        dicom.read(path.parent)


@pytest.mark.parametrize("tags", [{"RescaleIntercept": -3024}, {"BitsStored": 8, "HighBit": 7}])
def test_4_8_a_CT_slice_that_is_stored_otherwise_than_the_others_is_told(tmp_path: Path, tags: dict[str, int]) -> None:
    def each(ds: Dataset, k: int) -> None:
        for tag, value in tags.items():
            setattr(ds, tag, value if k == 5 else ds[tag].value)

    told = "CT whose slices are stored in 2 ways: bits, sign, rescale slope or intercept differ"
    assert dicom.read(series(tmp_path / "ct", each=each)).source.warnings == (told,)


def test_4_9_an_MR_slice_of_another_sign_is_told_and_slopes_of_their_own_are_none(tmp_path: Path) -> None:
    def each(ds: Dataset, k: int) -> None:
        ds.RescaleSlope, ds.RescaleIntercept, ds.PixelRepresentation = 1 + k, 0, int(k < 5)

    told = "MR whose slices are stored in 2 ways: bits or sign differ"
    assert dicom.read(series(tmp_path / "mr", modality="MR", each=each)).source.warnings == (told,)


@pytest.mark.parametrize("sign", [None, 129])
def test_4_9_pixels_that_do_not_say_whether_they_have_a_sign_are_refused(tmp_path: Path, sign: int | None) -> None:
    folder = series(tmp_path / "ct", each=lambda ds, k: k < 6, PixelRepresentation=sign)
    with pytest.raises(
        InputError, match=r"a-000\.dcm: whether its pixels have a sign \(PixelRepresentation\) is not said"
    ):
        dicom.read(folder)


def test_6_1_damaged_files_in_a_tree_cost_no_other_series(tmp_path: Path) -> None:
    """Values of no type, in the first group of a file and in a frame's groups, which pydicom meets late."""
    series(tmp_path / "good")
    (tmp_path / "bad").mkdir()

    def each(group: Dataset, k: int) -> None:
        group.ImageComments = f"frame{k}"

    replaced(enhanced(tmp_path / "bad" / "e.dcm", phantom(), affine(), each=each), b"LT\x06\0frame3", b"FD\x06\0frame3")
    (tmp_path / "odd").mkdir()
    data = (tmp_path / "good" / "a-000.dcm").read_bytes()
    meta = data.index(b"\x02\0\x02\0UI")
    spoilt = data[: meta + 4] + b"\x55\0" + data[meta + 6 :]
    uid = spoilt.index(b"\x20\0\x0e\0UI")
    (tmp_path / "odd" / "x.dcm").write_bytes(spoilt[:uid] + spoilt[uid + 8 + spoilt[uid + 6] :])  # without its series
    strays: dict[object, SegcliError] = {}
    found = dicom.find(tmp_path, strays.setdefault)
    problems = {s.files[0].path.parent.name: s.summary.problem for s in found}
    assert problems["good"] is None
    assert "e.dcm: corrupt: its header makes no sense" in str(problems["bad"])
    assert [path.name for path in strays] == ["x.dcm"]


def test_6_1_a_decoder_that_is_missing_costs_no_other_series(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices that are there twice are compared by their voxels while a tree is searched."""
    series(tmp_path / "good", uid="good")
    for name in ("one", "two"):
        compress(series(tmp_path / "bad" / name, uid="bad"), RLELossless)
    monkeypatch.setitem(pixels._DECODERS, RLELossless, ("none", "a package"))
    problems = {s.files[0].path.name[:1]: s.summary.problem for s in dicom.find(tmp_path)}
    assert problems["g"] is None
    assert "no decoder for RLE Lossless" in str(problems["b"])


def test_6_1_a_fault_of_segcli_in_one_series_costs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    series(tmp_path / "good", uid="good")
    series(tmp_path / "bad", uid="bad")
    whole = search.stacks_of
    monkeypatch.setattr(
        search, "stacks_of", lambda files: 1 / 0 if files[0].path.parent.name == "bad" else whole(files)
    )
    problems = {s.files[0].path.parent.name: s.summary.problem for s in dicom.find(tmp_path)}
    assert problems == {"good": None, "bad": "an internal error of segcli: ZeroDivisionError: division by zero"}
    with pytest.raises(ZeroDivisionError):
        dicom.read(tmp_path / "bad")


@pytest.mark.parametrize(
    ("stored", "signed", "stated", "bits", "least"),
    [
        (63536, 0, 63536, 12, -1024),  # unsigned; its lower 12 bits are 2,096, bone
        (-2000, 1, -2000, 11, -2048),  # of 11 bits -1024 is the least; the lower bits are 48
        (-2000, 1, 63536, 11, -2048),  # stated without a sign, as many scanners do
        (5, 0, 5, 12, 5 - 1024),  # one that the bits hold is as it is
    ],
)
def test_4_9_padding_that_the_stored_bits_do_not_hold_is_the_least_value(
    tmp_path: Path, stored: int, signed: int, stated: int, bits: int, least: int
) -> None:
    def each(ds: Dataset, k: int) -> None:
        words = np.full((7, 5), 700, "<i4")
        words[0, 0] = stored
        ds.PixelData = (words % (1 << 16)).astype("<u2").tobytes()
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation = bits, bits - 1, signed
        ds.add_new("PixelPaddingValue", "SS" if stated < 0 else "US", stated)

    values = dicom.read(series(tmp_path / "ct", each=each)).data[0]
    assert (values[:, 0, 0] == least).all()
    assert (values[:, 0, 1:] == 700 - 1024).all()


@pytest.mark.parametrize(
    ("old", "told"),
    [
        (b"-1024.0 ", "RescaleIntercept is not a list of 1 numbers"),
        (b"-10\\-20\\-15", "position .* is not a list of 3"),
    ],
)
def test_4_5_a_number_whose_sign_became_a_NUL_is_refused(tmp_path: Path, old: bytes, told: str) -> None:
    folder = series(tmp_path / "ct", RescaleIntercept="-1024.0")
    replaced(folder / "a-005.dcm", old, b"\0" + old[1:])
    with pytest.raises(InputError, match=rf"a-005\.dcm: {told}"):
        dicom.read(folder)


@pytest.mark.parametrize(
    ("where", "old", "new"),
    [
        ("segments", 2, 1),
        ("segments", 2, 3),
        ("first", 64, 66),
        ("second", None, -2),
        ("second", None, 2),
        ("run", None, 1),
    ],
)
def test_4_1_run_lengths_that_are_damaged_are_refused(tmp_path: Path, where: str, old: int | None, new: int) -> None:
    """`old` and `new`: the value there; None: what is there, changed by `new`."""
    folder = series(tmp_path / "ct")
    path = sorted(folder.iterdir())[-1]
    ds = pydicom.dcmread(path)
    ds.compress(RLELossless)
    ds.save_as(path)
    data = bytearray(path.read_bytes())
    at = data.index(b"\2\0\0\0\x40\0\0\0") + {"segments": 0, "first": 4, "second": 8, "run": 64}[where]
    assert old is None or data[at] == old
    data[at] = new if old is not None else data[at] + new
    path.write_bytes(data)
    with pytest.raises(InputError, match=rf"{path.name}: corrupt: its run lengths \(RLE\)"):
        dicom.read(folder)


def test_zeros_may_follow_run_lengths() -> None:
    """Two segments of four bytes: three as they are and one once; one four times."""
    first, second = b"\2abc\0d", b"\xfde"

    def frame(*parts: bytes) -> bytes:
        starts = [64, 64 + len(parts[0])][: len(parts)]
        return b"".join(word.to_bytes(4, "little") for word in [len(parts), *starts]).ljust(64, b"\0") + b"".join(parts)

    assert are_runs(frame(first, second), 2, 4)
    assert are_runs(frame(first + b"\0\0", b"\x80" + second + b"\0"), 2, 4)
    assert not are_runs(frame(first, second + b"\0f"), 2, 4)
    assert not are_runs(frame(first + b"e", second), 2, 4)
    assert not are_runs(frame(first, b"\xfc" + b"e"), 2, 4)
    assert not are_runs(frame(first), 2, 4)
    assert not are_runs(b"", 2, 4)


def test_a_file_that_could_not_be_read_once_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = series(tmp_path / "ct")
    monkeypatch.setattr(search, "_SETTLED", -(1 << 62))  # as if the files lay there for long
    whole, failures = search.open_file, iter([InputError("a network disk fails")])

    def once(path: Path) -> files.DicomFile:
        if error := next(failures, None):
            raise error
        return whole(path)

    monkeypatch.setattr(search, "open_file", once)
    with pytest.raises(InputError, match="a network disk fails"):
        dicom.read(folder)
    np.testing.assert_array_equal(dicom.read(folder).data[0], phantom())
