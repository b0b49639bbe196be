"""Reports: one run, or several beside one another, as a single HTML file that needs nothing else.

records     what a run folder says, as far as it is there
sections    its words, scores, curves, findings, audit and previews as blocks
show        what its model makes, as blocks
charts      curves and maps as SVG
page        blocks → HTML of at most 5 MB
comparison  several runs
"""

from __future__ import annotations

from morphogen.report.comparison import comparison, write_comparison
from morphogen.report.writing import write_report

__all__ = ["comparison", "write_comparison", "write_report"]
