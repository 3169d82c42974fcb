"""Closed-loop evaluation: many seeded episodes through topics, a verdict for each, a report."""
