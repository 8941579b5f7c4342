"""A package that adds to segcli, as pip would have installed it."""

from pathlib import Path


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
