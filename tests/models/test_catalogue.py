"""The lists of public models are whole, and say of each model how it is got."""

import re
from pathlib import Path

import pytest

from segcli.errors import ModelError
from segcli.models import catalogue
from segcli.models.addresses import addresses
from segcli.models.catalogue import Entry, entries, entry
from segcli.models.imports import recipes


def test_hidden_files_beside_the_lists_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("catalogue", "recipes"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "._monai.json").write_bytes(b"\0\5\x16\7")  # as macOS leaves them on other systems' disks
    monkeypatch.setenv("SEGCLI_WEIGHTS", str(tmp_path))
    entries.cache_clear()
    try:
        assert "totalsegmentator" in entries()
    finally:
        entries.cache_clear()
    assert "._monai" not in recipes()


def test_the_papers_and_the_field_are_in_it() -> None:
    wanted = {
        "totalsegmentator", "totalsegmentator-fast", "totalsegmentator-fastest", "totalsegmentator-total_mr",
        "totalsegmentator-body", "totalsegmentator-lung_vessels", "totalsegmentator-liver_segments",
        "totalsegmentator-vertebrae_mr", "mrsegmentator", "hd-bet", "totalvibesegmentator", "monai-spleen",
        "monai-wholebody", "monai-brats", "monai-swin-unetr-btcv", "monai-prostate", "swinunetr-btcv", "unetr-btcv",
        "fdg-neurosegmenter", "uxnet-flare", "uxnet-amos", "uxnet-feta", "unetrpp-synapse", "unetrpp-acdc",
        "unetrpp-brats", "deformuxnet", *(f"swinunetr-brats21-fold{i}" for i in range(5)),
    }  # fmt: skip
    assert wanted <= entries().keys()
    assert sum(name.startswith("moose-") for name in entries()) == 25
    assert len(entry("totalsegmentator").structures) == 117


@pytest.mark.parametrize("model", entries().values(), ids=lambda e: e.id)
def test_a_model_has_files_or_says_how_it_is_got(model: Entry) -> None:
    assert model.files or model.by_hand or model.parts
    assert set(model.parts) <= entries().keys()
    assert model.licence
    assert model.source
    said = re.search(r"(\d+) structures", model.title)
    assert said is None or not model.structures or int(said[1]) == len(model.structures), model.title
    assert re.fullmatch(r"[a-z0-9][A-Za-z0-9._-]*", model.id)
    for file in model.files:
        assert file.addresses or (file.folder and model.by_hand)
        assert file.sum is None or re.fullmatch(r"sha256:[0-9a-f]{64}|sha1:[0-9a-f]{40}", file.sum)
        assert not file.addresses or addresses([a for a in file.addresses if not a.startswith("gdrive:")]) is not None
    assert model.options.get("recipe", "uxnet-amos") in recipes()
    assert len(set(model.structures)) == len(model.structures)


def test_a_name_that_is_not_there_is_refused_with_the_nearest() -> None:
    with pytest.raises(ModelError, match="did you mean 'hd-bet'"):
        entry("hdbet")


def test_only_licences_that_ask_for_nothing_but_a_name_are_open() -> None:
    assert entry("totalsegmentator").open
    assert not entry("totalsegmentator-brain_aneurysm").open
    assert not entry("uxnet-amos").open


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not JSON"),
        ('{"models": [{"title": "x"}], "source": "s"}', "a field is of an unexpected kind"),
        ('{"models": []', "is not JSON"),
        ('{"source": "s"}', "the field 'models' is missing"),
        ("[]", "a field is of an unexpected kind"),
    ],
)
def test_a_list_of_the_users_own_that_is_damaged_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    (tmp_path / "catalogue").mkdir()
    (tmp_path / "catalogue" / "mine.json").write_text(text, encoding="utf-8")
    monkeypatch.setattr(catalogue, "places", lambda: [tmp_path])
    catalogue.entries.cache_clear()
    try:
        with pytest.raises(ModelError, match=r"mine\.json") as refused:
            catalogue.entries()
    finally:
        catalogue.entries.cache_clear()
    assert said in str(refused.value)
