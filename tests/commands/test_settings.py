"""Settings: flag, environment, the project's file, the user's file, default; and each says where it comes from."""

from pathlib import Path

import pytest
from runs import command

from segcli.commands import config, settings
from segcli.errors import ModelError


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's settings file; the working directory is tmp_path/project."""
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    monkeypatch.delenv("SEGCLI_HOME", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    path = tmp_path / "config" / "segcli" / "segcli.toml"
    path.parent.mkdir(parents=True)
    return path


def test_the_projects_file_wins_over_the_users(user):
    user.write_text('[predict]\nengine = "torch"\nmax-ram = "4G"\n')
    Path("segcli.toml").write_text('[predict]\nengine = "onnx"\n', encoding="utf-8")
    assert settings.defaults() == {"predict": {"engine": "onnx", "max_ram": "4G"}}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_file_as_windows_writes_text_is_read(user, encoding):
    user.write_text('[predict]\r\nmodel = "gehirn-größe"\r\n', encoding=encoding)
    assert settings.defaults() == {"predict": {"model": "gehirn-größe"}}
    (row,) = settings.origins("predict", {"model": "uxnet"}, {})
    assert (row["value"], row["from"]) == ("gehirn-größe", str(user))


def test_the_environment_wins_over_files_and_each_value_says_its_origin(user, monkeypatch):
    user.write_text('[predict]\nengine = "torch"\nbatch = 2\n')
    monkeypatch.setenv("SEGCLI_ENGINE", "openvino")
    monkeypatch.setenv("SEGCLI_OVERLAP", "0.9")  # no option listens to this one
    monkeypatch.setenv("SEGCLI_DEVICE", "")  # as Click takes it: not there
    known = {"engine": "auto", "batch": None, "overlap": None, "device": "auto"}
    rows = settings.origins("predict", known, {"engine": "SEGCLI_ENGINE", "device": "SEGCLI_DEVICE"})
    assert [(r["option"], r["value"], r["from"]) for r in rows] == [
        ("engine", "openvino", "SEGCLI_ENGINE"),
        ("batch", 2, str(user)),
        ("overlap", None, "default"),
        ("device", "auto", "default"),
    ]


def test_segcli_home_takes_the_place_of_the_users_folder(user, tmp_path, monkeypatch):
    user.write_text("[predict]\nbatch = 2\n")
    monkeypatch.setenv("SEGCLI_HOME", str(tmp_path))
    (tmp_path / "segcli.toml").write_text("[predict]\nbatch = 3\n")
    assert settings.defaults() == {"predict": {"batch": 3}}


def test_2_12_no_home_and_no_files_are_no_settings(user, monkeypatch):
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.delenv("HOME", raising=False)
    assert settings.defaults() == {}


@pytest.mark.parametrize("text", ["[predict", "batch = 2", "\udcff"])
def test_a_file_that_is_no_settings_file_is_refused_by_name(user, text):
    user.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ModelError, match=r"segcli\.toml"):
        settings.defaults()


FLAGS = {"predict": {"engine": "engine", "json": "json_"}}


def test_an_option_has_the_name_of_its_flag():
    assert settings.for_parameters({"predict": {"json": True}}, FLAGS) == {"predict": {"json_": True}}


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"predict": {"engin": "onnx"}}, "predict has no option 'engin'; did you mean 'engine'"),
        ({"predikt": {}}, "there is no command 'predikt'; did you mean 'predict'"),
    ],
)
def test_what_is_misspelt_is_refused_with_the_nearest_word(found, message):
    with pytest.raises(ModelError, match=message):
        settings.for_parameters(found, FLAGS)


def test_config_show_prints_values_as_they_would_be_typed(user, capsys):
    user.write_text('[predict]\nreport = ["csv", "html"]\ntta = true\n')
    config.show()
    told = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert told["model"] == ["uxnet", "default"]
    assert told["output"] == ["default"]
    assert told["report"] == ["csv,html", str(user)]
    assert told["tta"] == ["true", str(user)]
    assert told["precision"] == ["auto", "default"]


@pytest.mark.parametrize("value", ['"a\\u0000b"', '["a", "b\\u0000"]'])
def test_a_setting_that_no_command_line_can_hold_is_refused(tmp_path, value):
    (tmp_path / "segcli.toml").write_text(f"[predict]\nevents = {value}\n")
    done = command("predict", "a.nii", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (78, b"error: segcli.toml: predict: events cannot hold a NUL\n")
