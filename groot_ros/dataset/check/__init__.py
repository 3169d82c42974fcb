"""Is a dataset fit for training? ``check(root)`` finds what loaders refuse, and what they do not notice."""

from groot_ros.dataset.check.codes import CODES
from groot_ros.dataset.check.report import CheckReport, Problem, Severity
from groot_ros.dataset.check.run import HORIZON, check

__all__ = ["check", "CheckReport", "Problem", "Severity", "CODES", "HORIZON"]
