"""From a question to a table of effects: study, plan, run, statistics, report."""
