"""The user's folders: what names them, the nearest first."""

import sys
from pathlib import Path

import platformdirs
import pytest
from models import organs
from runs import command, scan

import segcli
from segcli.batch.cases import cases
from segcli.folders import at_home, user_folder
from segcli.models import catalogue, in_place, library

KINDS = ("config", "data", "cache")


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SEGCLI_HOME", *(f"XDG_{kind.upper()}_HOME" for kind in KINDS)):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(("kind", "below"), [("config", ""), ("data", "data"), ("cache", "cache")])
def test_segcli_home_holds_them_all(kind, below, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGCLI_HOME", str(tmp_path))
    monkeypatch.setenv(f"XDG_{kind.upper()}_HOME", "/elsewhere")
    assert user_folder(kind) == tmp_path / below


@pytest.mark.parametrize("kind", KINDS)
def test_each_xdg_variable_names_its_own_on_every_platform(
    kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"XDG_{kind.upper()}_HOME", str(tmp_path))
    assert user_folder(kind) == tmp_path / "segcli"
    for other in set(KINDS) - {kind}:
        assert not user_folder(other).is_relative_to(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="the folders of Linux")
@pytest.mark.parametrize(("kind", "usual"), [("config", ".config"), ("data", ".local/share"), ("cache", ".cache")])
def test_without_them_the_platforms_habit_counts(kind, usual, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_folder(kind) == tmp_path / usual / "segcli"


@pytest.mark.skipif(sys.platform != "linux", reason="the folders of Linux")
@pytest.mark.parametrize("said", [None, "", "home"])  # nobody says, nothing is said, not a whole path
def test_a_user_without_a_home_has_the_folders_of_the_root_as_in_a_container(
    said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(number: int) -> None:
        raise KeyError(number)

    monkeypatch.setattr("pwd.getpwuid", nobody)
    monkeypatch.delenv("HOME") if said is None else monkeypatch.setenv("HOME", said)
    folders = [Path("/.config/segcli"), Path("/.local/share/segcli"), Path("/.cache/segcli")]
    assert [user_folder(kind) for kind in KINDS] == folders
    model = catalogue.entry("totalsegmentator-fast")
    assert in_place.installation(model, model.files[0]) is None


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_platform_that_is_asked(kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platformdirs, f"user_{kind}_path", lambda name, appauthor: tmp_path / name)
    assert user_folder(kind) == tmp_path / "segcli"


def test_models_and_caches_lie_in_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGCLI_HOME", str(tmp_path))
    assert library.places()[-1] == tmp_path / "data" / "models"
    assert library.cache_home() == tmp_path / "cache"


@pytest.mark.skipif(sys.platform != "linux", reason="the folders of Linux")
def test_a_tilde_that_no_shell_has_seen_is_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SEGCLI_WEIGHTS", "~/w:/x:~other/w:a~/w")
    assert [str(p) for p in library.places()[:4]] == [f"{tmp_path}/w", "/x", "~other/w", "a~/w"]
    assert [at_home(path) for path in ("~", "~/a", "~a", "./~/a")] == [str(tmp_path), f"{tmp_path}/a", "~a", "./~/a"]
    assert at_home(Path("~/a")) == f"{tmp_path}/a"
    organs(tmp_path / "m")
    assert library.find("~/m").name == "organs"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")  # not to be used, by its specification
    assert user_folder("data") == tmp_path / ".local/share/segcli"
    monkeypatch.setenv("SEGCLI_HOME", "~/own")
    assert [user_folder(kind) for kind in KINDS] == [tmp_path / f"own{below}" for below in ("", "/data", "/cache")]


@pytest.mark.skipif(sys.platform != "linux", reason="the folders of Linux")
@pytest.mark.parametrize("how", ["word", "option", "variable", "settings", "python"])
def test_no_folder_is_called_tilde(how: str, tmp_path: Path) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    organs(home / "m"), scan(here / "a.nii.gz")
    words = {"word": ["-m", "~/m", "-o", "~/out"], "option": ["--model=~/m", "--output=~/out"]}.get(how, [])
    words += ["-o", "~/out"] if how == "variable" else []
    if how == "settings":
        (here / "segcli.toml").write_text('[predict]\noutput = "~/out"\nmodel = ["~/m"]\n')
    call = ["-c", "import segcli; segcli.segment('a.nii.gz', model='~/m', engine='onnx').save('~/out')"]
    env = {"HOME": str(home), "SEGCLI_MODEL": "~/m" if how == "variable" else None}
    python = how == "python"
    words = [] if python else ["predict", "a.nii.gz", "--engine", "onnx", *words]
    done = command(*words, before=call if python else (), cwd=here, env=env)
    assert done.returncode == 0, done.stderr
    assert (home / "out" / "a_seg.nii.gz").is_file()
    assert not (here / "~").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="the folders of Linux")
def test_scans_of_a_list_or_of_python_may_begin_at_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file = scan(tmp_path / "a.nii.gz")
    assert cases(["~/a.nii.gz"])[0].paths == cases([], named={"image": "~/a.nii.gz"})[0].paths == (file,)
    assert segcli.read("~/a.nii.gz").data.shape == (1, 12, 14, 16)
