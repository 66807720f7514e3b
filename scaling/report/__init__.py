"""One offline HTML file about a campaign or a table of runs: ``render_report(ReportInput(...))``."""

from moe_search.scaling.report.contents import BudgetSummary, ReportInput
from moe_search.scaling.report.render import render_report

__all__ = ["BudgetSummary", "ReportInput", "render_report"]
