"""The page of an evaluation: the mean of each structure, the difference of two models, every case."""

from __future__ import annotations

from segcli.documents import Facts
from segcli.results.evaluate import RULE
from segcli.results.page.parts import page, words

_SCORES = {  # heading and format of each metric
    "dice": ("Dice", ".3f"),
    "iou": ("IoU", ".3f"),
    "nsd": ("NSD", ".3f"),
    "hd95_mm": ("HD95 mm", ".2f"),
    "assd_mm": ("ASSD mm", ".2f"),
    "volume_error": ("volume error", ".3f"),
}


def evaluation_page(document: Facts) -> bytes:
    """The page of an evaluation.

    document   tolerance_mm, no_prediction (names of cases), not_compared (case and error of each), scores
               (`evaluate.rows`), summary (`evaluate.summarise`), and with a second model difference
               (`evaluate.compare`), against_no_prediction, against_not_compared
    """
    apart = [words(name) for name in document.get("not_averaged", ())]
    rule = RULE
    for key, whose in (("no_prediction", "a prediction"), ("against_no_prediction", "a second prediction")):
        if lacking := document.get(key):
            rule += f" All counts as missed in cases without {whose}: {', '.join(lacking)}."
    refused = [
        (f"{row['case']}{of}", row["error"])
        for key, of in (("not_compared", ""), ("against_not_compared", ", second prediction"))
        for row in document.get(key, ())
    ]
    return page(
        "evaluation.html",
        title="Evaluation",
        cases=len({s["case"] for s in document["scores"]}),
        rule=rule + (f" Not averaged, as the model's card says: {', '.join(apart)}." if apart else ""),
        tolerance=f"NSD at {document['tolerance_mm']:g} mm",
        refused=refused,
        scores=_SCORES,
        metrics=[(heading, True) for heading, _ in _SCORES.values()],
        summary=document["summary"],
        difference=document.get("difference"),
        detail=document["scores"],
    )
