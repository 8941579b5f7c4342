"""segcli count: how many voxels a scan has."""

import typer

from segcli import read
from segcli.commands.options import Commands

commands = Commands("count")


@commands.command()
def count(scan: str) -> None:
    """How many voxels a scan has."""
    typer.echo(read(scan).grid.size)
