"""The options that say which scans are meant, of predict and of plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from segcli.commands.options import Channels, SeveralSeries, VolumeNumber
from segcli.commands.values import named_channels, several
from segcli.errors import UsageError

if TYPE_CHECKING:
    from segcli.batch.cases import Given
    from segcli.batch.selection import Selection


@dataclass(frozen=True)
class Scans:
    """Which scans"""

    inputs: Annotated[list[str] | None, typer.Argument(metavar="INPUT...", help="Scans: files, folders, `-`.")] = None
    channel: Channels = None
    series: SeveralSeries = None
    where: Annotated[
        list[str] | None,
        typer.Option("--where", help="Rules for DICOM series: Modality=MR,SeriesDescription~=(?i)t1; repeatable: or."),
    ] = None
    volume: VolumeNumber = None
    include: Annotated[list[str] | None, typer.Option("--include", help="Pattern of paths in a folder.")] = None
    exclude: Annotated[list[str] | None, typer.Option("--exclude", help="Pattern of paths to leave out.")] = None
    participant: Annotated[str, typer.Option("--participant-label", help="Of a BIDS dataset: 01,02.")] = ""
    session: Annotated[str, typer.Option("--session-label", help="Of a BIDS dataset.")] = ""
    suffix: Annotated[str, typer.Option("--suffix", help="Of a BIDS dataset: T1w,T2w.")] = ""
    files_from: Annotated[
        str | None, typer.Option("--files-from", help="A list: each line an input, no comments; `-` is stdin.")
    ] = None
    null: Annotated[bool, typer.Option("-0", help="The list is separated by NUL.")] = False
    shard: Annotated[str | None, typer.Option("--shard", help="i/n, or slurm for job arrays.")] = None

    def given(self) -> Given:
        from segcli.batch.cases import Given

        inputs = tuple(self.inputs or ())
        named = named_channels(self.channel)
        if "-" in inputs and (len(inputs) > 1 or named or self.files_from is not None):
            raise UsageError("- is one scan on stdin, alone", hint="a list of names on stdin is --files-from -")
        return Given(inputs, named, self.files_from, self.null, self.select(), self.volume, self.shard)

    def select(self) -> Selection:
        from segcli.batch.selection import Selection

        if self.where:
            from segcli.formats.dicom.rules import rules

            for text in self.where:
                rules(text)  # a mistake is told before anything is looked for
        return Selection(
            series=several(*self.series or ()),
            where=tuple(self.where or ()),
            include=tuple(self.include or ()),
            exclude=tuple(self.exclude or ()),
            participants=several(self.participant),
            sessions=several(self.session),
            suffixes=several(self.suffix),
        )
