"""One offline HTML file about a campaign or a table of runs: ``render_report(ReportInput(...))``.

``report_json`` has every number of the page, ``report_csv`` what each law says about each run.
"""

from moe_search.scaling.report.contents import BudgetSummary, ReportInput, Settings
from moe_search.scaling.report.machine import report_csv, report_json
from moe_search.scaling.report.render import render_report

__all__ = ["BudgetSummary", "ReportInput", "Settings", "render_report", "report_csv", "report_json"]
