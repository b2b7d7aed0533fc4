"""`report.html`: what a run did and what its model makes of what is hidden, on one self-contained page."""

from mmpt.report.page import write_report
from mmpt.report.reconstructions import reconstruction_figure

__all__ = ["reconstruction_figure", "write_report"]
