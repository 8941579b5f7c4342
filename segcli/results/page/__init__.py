"""One HTML file for a case, for a cohort, for an evaluation: everything inside, nothing loaded, nothing of the clock.

The pages are templates in `templates/`, which escape whatever they are given. The slices are pictures and need no
script to be seen; scripts move the sliders and sort the tables. The page of a case may hold NiiVue (`niivue.script`)
and both volumes as an interactive viewer, which makes it 7 MB and more.
"""

from segcli.results.page.case import case_page
from segcli.results.page.cohort import cohort_page
from segcli.results.page.evaluation import evaluation_page

__all__ = ["case_page", "cohort_page", "evaluation_page"]
