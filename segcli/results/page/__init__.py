"""One HTML file for a case, for a cohort, for an evaluation: everything inside, nothing loaded, nothing of the clock.

The pages are templates in `templates/`, which escape whatever they are given. The slices are pictures and need no
script to be seen; scripts move the sliders and sort the tables. When a NiiVue bundle is on this machine
(`niivue_bundle`) the page of a case holds it too, with the volumes, as an interactive viewer.
"""

from segcli.results.page.case import case_page, niivue_bundle
from segcli.results.page.cohort import cohort_page
from segcli.results.page.evaluation import evaluation_page

__all__ = ["case_page", "cohort_page", "evaluation_page", "niivue_bundle"]
