"""Profiler rules, over system metrics and step times. Their names and parameters are those of AWS's built-in rules."""
