"""Packages that add to segcli, as pip would have installed them."""

import shutil
from pathlib import Path

# What the package in the folder `example` adds, each in one file.
EXAMPLE = (
    "checks: cold = cold_check:cold",
    "commands: count = count_command:commands",
    "engines: lines = lines_engine:ENGINE",
    "formats: npy = npy_format:FORMAT",
    "networks: one_layer = one_layer",
    "outputs: notes = notes_output:NOTES",
)


def example(folder: Path) -> dict[str, str | None]:
    """The environment of a process in which the package is installed, in a new folder."""
    env = package(folder, "example", "", *EXAMPLE)
    for path in (Path(__file__).parent / "example").glob("*.py"):
        shutil.copy(path, folder)
    return env


def package(folder: Path, name: str, text: str, *lines: str) -> dict[str, str | None]:
    """A package of one module of its name, and its entry points; the environment of a process that has it.

    lines   "formats: npy = npy_format:FORMAT"
    """
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / f"{name}.py").write_text(text)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.0\n")
    points = [line.partition(": ") for line in lines]
    (info / "entry_points.txt").write_text("".join(f"[segcli.{what}]\n{point}\n" for what, _, point in points))
    return {"PYTHONPATH": str(folder)}
