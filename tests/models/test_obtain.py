"""A public model is got by its name: licence first, then the file, then the import."""

import io
import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from models import organs
from servers import Server, serving
from totalseg import fast_body, installed, muscles

from segcli.errors import DownloadFailed, ModelError, OutputExists, UsageError
from segcli.models import catalogue, composed, imports
from segcli.models.in_place import found as find_installed
from segcli.models.library import parts_of, read_card, rough_of
from segcli.models.obtain import FetchOptions, get, urls, wanted
from segcli.space.volume import AXES_CODES, Grid, turned

NNUNET = Path(__file__).parents[1] / "data" / "containers" / "nnunetv2_tinyct" / "model"


def packed() -> bytes:
    """The small nnU-Net folder as its authors would publish it."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for path in sorted(NNUNET.rglob("*")):
            if path.is_file():
                inner = Path("Dataset001_tiny", "nnUNetTrainer__nnUNetPlans__3d_fullres", path.relative_to(NNUNET))
                archive.writestr(zipfile.ZipInfo(str(inner)), path.read_bytes())
    return out.getvalue()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Server]]:
    """(folder for models, server): a catalogue of four models whose addresses lead to the server."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "SEGCLI_OFFLINE", "HF_HUB_OFFLINE", "SEGCLI_MIRROR"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("SEGCLI_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TOTALSEG_HOME_DIR", str(tmp_path / "nowhere"))
    monkeypatch.delenv("TOTALSEG_WEIGHTS_PATH", raising=False)
    monkeypatch.setenv("SEGCLI_WEIGHTS", str(tmp_path / "lists"))
    monkeypatch.setattr("segcli.models.fetch._WAIT", 0.01)
    for server in serving(Server(body=packed())):
        files = [{"addresses": [server.address]}]
        common = {"modality": "CT", "structures": ["organ"], "citation": "Somebody 2026", "files": files}
        models = [
            {"id": "tiny", "title": "A tiny model", "licence": "Apache-2.0", "options": {"overlap": 0.25}, **common},
            {"id": "tiny-nc", "title": "Another", "licence": "CC BY-NC 4.0", **common},
            {"id": "parted", "title": "Parts", "licence": "MIT", "lacks": "it is made of 5 models", **common},
            {
                "id": "by-hand",
                "title": "By hand",
                "licence": "MIT",
                "by_hand": "ask its authors",
                **common,
                "files": [],
            },
        ]
        (tmp_path / "lists" / "catalogue").mkdir(parents=True)
        (tmp_path / "lists" / "catalogue" / "a.json").write_text(json.dumps({"source": "a test", "models": models}))
        catalogue.entries.cache_clear()
        yield tmp_path / "models", server
    catalogue.entries.cache_clear()


def test_a_model_of_the_catalogue_is_got_by_its_name(home: tuple[Path, Server]) -> None:
    to, server = home
    told: list[str] = []
    folder = get("tiny", to, tell=told.append)
    card = read_card(folder)
    assert folder == to / "tiny"
    assert (card.name, card.licence, card.window.overlap) == ("tiny", "Apache-2.0", 0.25)
    assert card.source.startswith("A tiny model; Somebody 2026; http://127.0.0.1")
    assert told[0] == "tiny: licence Apache-2.0; please cite Somebody 2026"
    assert "no list states it" in told[1]
    assert [p.name for p in (to.parent / "home" / "cache" / "downloads").iterdir()] == ["sums.json"]
    assert len(server.seen) == 1


@pytest.mark.parametrize("text", ["tiny-nc", "address"])
def test_a_licence_that_asks_for_more_or_is_unknown_is_accepted_or_nothing_is_fetched(
    home: tuple[Path, Server], text: str
) -> None:
    to, server = home
    text = server.address.replace("model.zip", "other.zip") if text == "address" else text
    with pytest.raises(UsageError, match="licence"):
        get(text, to)
    assert server.seen == []
    assert read_card(get(text, to, FetchOptions(accept_licence=True))).licence in ("CC BY-NC 4.0", "not stated")


def _list_turned(to: Path, server: Server, around: str) -> None:
    """A model in a catalogue of its own, named by the orientation that its program turns scans to."""
    entry = {
        "id": around,
        "title": around.upper(),
        "modality": "CT",
        "structures": [],
        "licence": "MIT",
        "citation": "",
    }
    listed = {"source": "t", "models": [{**entry, "files": [{"addresses": [server.address]}], "around": around}]}
    (to.parent / "lists" / "catalogue" / "b.json").write_text(json.dumps(listed))
    catalogue.entries.cache_clear()


def test_a_model_whose_program_turns_scans_before_has_their_orientation(home: tuple[Path, Server]) -> None:
    """MRSegmentator's reader hands nnU-Net arrays z, y, x of a scan whose x, y, z point left, backwards and up."""
    to, server = home
    _list_turned(to, server, "lps")
    plain, turned = read_card(get("tiny", to)), read_card(get("lps", to))
    axes = "".join("SPL"[axis] for axis in plain.grid.transpose)
    assert (plain.grid.axes, turned.grid.axes, turned.grid.transpose) == (None, axes, (0, 1, 2))
    assert catalogue.entry("mrsegmentator").around == "lps"
    assert find_installed("lps") is None


def test_a_scan_of_any_orientation_is_shown_to_mooses_models_as_moose_turns_it(home: tuple[Path, Server]) -> None:
    """MOOSE hands nnU-Net the array z, y, x of what SimpleITK turns to RAS."""
    to, server = home
    _list_turned(to, server, "ras")
    plain, card = read_card(get("tiny", to)), read_card(get("ras", to))
    assert {e.around for name, e in catalogue.entries().items() if name.startswith("moose-")} == {"ras"}

    data = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)
    for axes in AXES_CODES:
        scan = turned(Grid(data.shape, np.eye(4)), axes)
        image = sitk.GetImageFromArray(data.reshape(scan.shape))
        image.SetDirection(scan.affine[:3, :3][:, ::-1].ravel())
        image.SetOrigin(scan.affine[:3, 3])
        theirs = sitk.GetArrayFromImage(sitk.DICOMOrient(image, "RAS")).transpose(plain.grid.transpose)
        shown = turned(scan, card.grid.axes)
        back = [np.rint(scan.index(shown.world(voxel))).astype(int) for voxel in np.ndindex(shown.shape)]
        ours = np.array([data.reshape(scan.shape)[tuple(voxel)] for voxel in back]).reshape(shown.shape)
        assert np.array_equal(ours, theirs), axes


def test_an_output_folder_with_a_models_name_does_not_hide_it(
    home: tuple[Path, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    (home[0].parent / "work" / "tiny").mkdir(parents=True)
    monkeypatch.chdir(home[0].parent / "work")
    assert read_card(get("tiny", home[0])).name == "tiny"


def test_nothing_is_fetched_for_a_name_that_is_taken_or_is_none(home: tuple[Path, Server]) -> None:
    to, server = home
    get("tiny", to)
    seen = len(server.seen)
    with pytest.raises(OutputExists):
        get("tiny", to)
    with pytest.raises(UsageError, match=r"'\.\./tiny' is no name for a model"):
        get("tiny", to, FetchOptions(name="../tiny"))
    assert len(server.seen) == seen


def test_a_file_that_another_process_fetches_meanwhile_under_the_same_name_is_not_taken_for_ones_own(
    home: tuple[Path, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    to, server = home
    downloads = to.parent / "home" / "cache" / "downloads"
    adopt, seen = imports.adopt, []

    def later(path: Path, **how: Any) -> Path:
        (downloads / path.name).write_bytes(b"of another model")
        seen.append(path.read_bytes())
        return adopt(path, **how)

    monkeypatch.setattr(imports, "adopt", later)
    get("tiny", to)
    assert seen == [server.body]
    assert sorted(p.name for p in downloads.iterdir()) == ["model.zip", "sums.json"]


def test_what_was_fetched_is_kept_where_facts_are_missing_and_it_is_said_where(home: tuple[Path, Server]) -> None:
    to, server = home
    bare = io.BytesIO()
    torch.save({"conv.weight": torch.ones(2, 1, 1, 1, 1), "conv.bias": torch.zeros(2)}, bare)
    server.files = {"/m/dots.pth": bare.getvalue()}
    address = server.address.removesuffix("/models/model.zip") + "/m/dots.pth"
    kept = to.parent / "home" / "cache" / "downloads" / "dots.pth"
    with pytest.raises(ModelError, match="does not state channels") as caught:
        get(address, to, FetchOptions(accept_licence=True))
    assert str(caught.value.hint).startswith("give --channels CT; ")
    assert str(caught.value.hint).endswith(f"what was fetched is kept: segcli models import {kept}")
    assert kept.read_bytes() == bare.getvalue()
    assert not [p for p in kept.parent.iterdir() if p.is_dir()]


def test_an_address_of_the_catalogue_is_that_model(home: tuple[Path, Server]) -> None:
    assert wanted(home[1].address).id == "tiny"


def test_the_files_of_a_model_of_several_lie_in_their_places_and_its_structures_are_named(
    home: tuple[Path, Server],
) -> None:
    to, server = home
    rows = [{"in_channels": -1, "out_channels": -1, "kernel_size": 3, "padding": 1, "dilation": 1}, {}]
    rows[1] = {**rows[0], "kernel_size": 1, "padding": 0}
    weights = io.BytesIO()
    torch.save({"a.0.weight": torch.ones(2, 1, 3, 3, 3), "a.1.weight": torch.ones(3, 2, 1, 1, 1)}, weights)
    server.files = {"/m/model.json": json.dumps({"layers": rows}).encode(), "/m/model.pth": weights.getvalue()}
    root = server.address.removesuffix("/models/model.zip")
    files = [{"place": path.removeprefix("/m/"), "addresses": [root + path]} for path in server.files]
    entry = {"id": "mesh", "title": "Mesh", "modality": "MR", "structures": ["grey", "white"], "licence": "MIT"}
    listed = {"source": "a test", "network": "meshnet", "models": [{**entry, "citation": "", "files": files}]}
    (to.parent / "lists" / "catalogue" / "b.json").write_text(json.dumps(listed))
    catalogue.entries.cache_clear()
    told: list[str] = []
    card = read_card(get("mesh", to, tell=told.append))
    assert (card.name, card.architecture.name) == ("mesh", "meshnet")
    assert [label.name for label in card.labels] == ["background", "grey", "white"]
    assert card.source.startswith(f"Mesh; {root}/m/model.json, SHA-256 ")
    assert [note.partition(", SHA-256")[0] for note in told[1:3]] == ["mesh: model.json", "mesh: model.pth"]
    downloads = to.parent / "home" / "cache" / "downloads" / "mesh"
    assert [path.name for path in downloads.iterdir()] == ["sums.json"]
    seen = len(server.seen)
    with pytest.raises(OutputExists):
        get("mesh", to)
    assert len(server.seen) == seen


def test_a_model_that_is_there_is_not_replaced_unless_told(home: tuple[Path, Server]) -> None:
    to, _ = home
    get("tiny", to)
    with pytest.raises(OutputExists):
        get("tiny", to)
    assert get("tiny", to, FetchOptions(replace=True)).is_dir()


@pytest.mark.parametrize("replace", [False, True])
def test_over_a_model_with_a_network_of_its_own_no_model_of_parts_is_offered(tmp_path: Path, replace: bool) -> None:
    with pytest.raises(OutputExists, match="has a network of its own") as caught:
        composed.unclaimed(organs(tmp_path / "m"), replace=replace)
    assert caught.value.hint == "choose another --name, or move it away"


def test_a_model_that_cannot_be_run_or_fetched_says_why(home: tuple[Path, Server]) -> None:
    to, server = home
    with pytest.raises(ModelError, match="parted: it is made of 5 models, which segcli does not run yet"):
        get("parted", to)
    with pytest.raises(ModelError, match="by-hand: cannot be fetched: ask its authors"):
        get("by-hand", to)
    with pytest.raises(ModelError, match="did you mean 'tiny"):
        get("tinny", to)
    assert server.seen == []


def test_what_was_fetched_on_another_machine_is_taken_from_a_folder_as_the_refusal_says(
    home: tuple[Path, Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to, server = home
    monkeypatch.setenv("SEGCLI_OFFLINE", "1")
    with pytest.raises(DownloadFailed) as caught:
        get("tiny", to)
    assert caught.value.hint is not None
    name = caught.value.hint.partition("bring it as ")[2].partition(" ")[0]
    assert "run the same command with SEGCLI_MIRROR=FOLDER" in caught.value.hint
    usb = tmp_path / "usb"
    usb.mkdir()
    monkeypatch.setenv("SEGCLI_MIRROR", str(usb))
    with pytest.raises(DownloadFailed, match="SEGCLI_OFFLINE is set"):
        get("tiny", to)
    (usb / name).write_bytes(packed())
    assert read_card(get("tiny", to)).document["overlap"] == 0.25, "the list says what the file does not"
    assert (usb / name).read_bytes() == packed()
    assert server.seen == []


def test_of_a_place_on_the_hub_the_one_file_that_may_be_a_model_is_taken(
    home: tuple[Path, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    to, server = home
    address = server.address.rpartition("/models/")[0]
    monkeypatch.setenv("HF_ENDPOINT", address)
    accepted = FetchOptions(accept_licence=True)

    def there(*names: str, at: str = "main") -> None:
        listed = {"siblings": [{"rfilename": name} for name in names]}
        server.files[f"/api/models/owner/repo/revision/{at}"] = json.dumps(listed).encode()

    there("README.md", "sub/tiny-hub.zip", "config.json", at="v1")
    folder = get("hf:owner/repo@v1", to, accepted)
    assert folder.name == "tiny-hub"
    assert f"{address}/owner/repo/resolve/v1/sub/tiny-hub.zip" in read_card(folder).source
    there("a.pth", "b.pth", "README.md")
    with pytest.raises(UsageError, match=r"hf:owner/repo: 2 of its 3 files may be a model: a.pth, b.pth") as several:
        get("hf:owner/repo", to, accepted)
    assert several.value.hint == "name the file: hf:owner/repo:FILE"
    there("README.md")
    with pytest.raises(UsageError, match="0 of its 1 files may be a model"):
        get("hf:owner/repo", to, accepted)
    server.plan = ["404"]
    with pytest.raises(DownloadFailed, match="/api/models/owner/nothing/revision/main: no list of files came"):
        get("hf:owner/nothing", to, accepted)
    server.files["/api/models/owner/repo/revision/main"] = b"[" * 200_000
    with pytest.raises(DownloadFailed, match="no list of files came"):
        get("hf:owner/repo", to, accepted)
    monkeypatch.setenv("SEGCLI_OFFLINE", "1")
    seen = len(server.seen)
    with pytest.raises(DownloadFailed, match="SEGCLI_OFFLINE is set"):
        get("hf:owner/repo", to, accepted)
    assert len(server.seen) == seen


def test_a_file_on_this_machine_goes_the_same_way(home: tuple[Path, Server], tmp_path: Path) -> None:
    (tmp_path / "own.zip").write_bytes(packed())
    assert read_card(get(str(tmp_path / "own.zip"), home[0], FetchOptions(name="own"))).name == "own"
    assert home[1].seen == []


def test_an_installation_of_totalsegmentator_is_used_without_a_download(
    home: tuple[Path, Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "results" / "Dataset297_TotalSegmentator_total_3mm_1559subj"
    inner = place / "nnUNetTrainer_4000epochs_NoMirroring__nnUNetPlans__3d_fullres"
    for path in NNUNET.rglob("*"):
        if path.is_file():
            target = inner / path.relative_to(NNUNET)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    before = {p: p.stat().st_mtime_ns for p in place.rglob("*")}
    monkeypatch.setenv("TOTALSEG_WEIGHTS_PATH", str(tmp_path / "results"))
    told: list[str] = []
    card = read_card(get("totalsegmentator-fast", home[0], tell=told.append))
    assert (card.grid.axes, card.window.overlap) == ("SAR", 0.2)
    assert any("nothing is fetched" in text for text in told)
    assert {p: p.stat().st_mtime_ns for p in place.rglob("*")} == before
    assert home[1].seen == []


def test_urls_are_told_for_another_machine(home: tuple[Path, Server]) -> None:
    assert urls("tiny") == [home[1].address]
    with pytest.raises(ModelError, match="ask its authors"):
        urls("by-hand")


def test_a_download_that_fails_leaves_no_model(home: tuple[Path, Server]) -> None:
    to, server = home
    server.plan = ["404"]
    with pytest.raises(DownloadFailed):
        get("tiny", to)
    assert not to.exists()


def test_the_command_says_the_licence_then_fetches_imports_and_names_the_folder(
    home: tuple[Path, Server], capsys: pytest.CaptureFixture[str]
) -> None:
    from segcli.commands.app import app

    app(["models", "--available"], standalone_mode=False)
    assert "tiny-nc" in capsys.readouterr().out
    app(["models", "get", "tiny", "--print-urls"], standalone_mode=False)
    assert capsys.readouterr().out == home[1].address + "\n"
    app(["models", "info", "tiny"], standalone_mode=False)
    assert "here        no" in capsys.readouterr().out
    app(["models", "get", "tiny", "-o", str(home[0])], standalone_mode=False)
    out, err = capsys.readouterr()
    assert out == f"{home[0] / 'tiny'}\n"
    assert err.startswith("note: tiny: licence Apache-2.0")


def test_a_model_of_several_files_is_made_of_parts(home: tuple[Path, Server], tmp_path: Path) -> None:
    to, server = home
    results = tmp_path / "nowhere" / "nnunet" / "results"  # TotalSegmentator's own place, as the fixture names it
    inner = Path("nnUNetTrainer__nnUNetPlans__3d_fullres")
    labels = json.loads((NNUNET / "dataset.json").read_text())["labels"]
    own = [name for name, value in labels.items() if value != 0]
    for part in ("Dataset001_a", "Dataset002_b"):
        shutil.copytree(NNUNET, results / part / inner)
    document = json.loads((results / "Dataset002_b" / inner / "dataset.json").read_text())
    renamed = {name if value == 0 else f"{name}_b": value for name, value in labels.items()}
    (results / "Dataset002_b" / inner / "dataset.json").write_text(json.dumps({**document, "labels": renamed}))
    files = [{"addresses": [f"http://127.0.0.1:9/{part}.zip"]} for part in ("Dataset001_a", "Dataset002_b")]
    structures = [*(f"{name}_b" for name in own), *own]
    entry = {"id": "totalsegmentator-two", "title": "Two", "modality": "CT", "structures": structures}
    entry |= {"licence": "MIT", "citation": "", "files": files, "options": {"overlap": 0.25}}
    (tmp_path / "lists" / "catalogue" / "b.json").write_text(json.dumps({"source": "a test", "models": [entry]}))
    catalogue.entries.cache_clear()
    told: list[str] = []
    folder = get("totalsegmentator-two", to, tell=told.append)
    card = read_card(folder)
    assert [part.name for part in parts_of(card)] == ["Dataset001_a", "Dataset002_b"] == list(card.parts)
    assert [label.name for label in card.structures] == structures
    assert [label.id for label in card.structures] == list(range(1, len(structures) + 1))
    assert imports.verify(folder).name == "totalsegmentator-two"
    with pytest.raises(OutputExists):
        get("totalsegmentator-two", to)
    told.clear()
    assert get("totalsegmentator-two", to, FetchOptions(replace=True), tell=told.append) == folder
    assert sum("is here already" in line for line in told) == 2
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(OutputExists):
        get("totalsegmentator-two", to, FetchOptions(replace=True))
    assert not server.seen, "nothing was fetched"


def test_the_rough_model_comes_with_the_model_that_looks_where_it_points(
    home: tuple[Path, Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast_body(tmp_path / "results")
    muscles(tmp_path / "results")
    monkeypatch.setenv("TOTALSEG_WEIGHTS_PATH", str(tmp_path / "results"))
    told: list[str] = []
    card = read_card(get("totalsegmentator-abdominal_muscles", home[0], tell=told.append))
    assert card.rough is not None
    assert (card.rough.model, card.rough.structures, card.rough.margin_mm) == (
        "totalsegmentator-body-fast",
        ("body_trunc",),
        20,
    )
    rough = rough_of(card)
    assert rough is not None
    assert rough.folder == home[0] / "totalsegmentator-body-fast"
    assert (rough.grid.axes, rough.grid.spacing, rough.grid.anchor) == ("SAR", (6.0, 6.0, 6.0), "corners")
    assert len(card.weights) == 1, "TotalSegmentator takes the first fold"
    get("totalsegmentator-abdominal_muscles", home[0], FetchOptions(replace=True), tell=told.append)
    assert any("its rough model totalsegmentator-body-fast is here already" in line for line in told)
    both = urls("totalsegmentator-abdominal_muscles")
    assert [address.rpartition("/")[2][:10] for address in both] == ["Dataset300", "Dataset952"]


def test_a_model_that_needs_a_number_is_taken_from_an_installation_alone(
    home: tuple[Path, Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepted = FetchOptions(accept_licence=True)
    for wishes in (FetchOptions(), accepted):  # nobody accepts a licence of what cannot be fetched
        with pytest.raises(ModelError, match="totalsegmentator-face: cannot be fetched: needs a licence number"):
            get("totalsegmentator-face", home[0], wishes)
    inner = "nnUNetTrainerNoMirroring__nnUNetPlans__3d_fullres"
    installed(tmp_path / "results", "Dataset303_face_1559subj", inner, "face", "other")
    monkeypatch.setenv("TOTALSEG_WEIGHTS_PATH", str(tmp_path / "results"))
    assert [x.name for x in read_card(get("totalsegmentator-face", home[0], accepted)).structures] == ["face", "other"]
