"""Stands in for SimpleITK where it is not installed: the check's scans lie along their grids and need none of it."""


def __getattr__(name: str) -> None:
    raise AttributeError(f"SimpleITK is not installed, and something needs its {name}")
