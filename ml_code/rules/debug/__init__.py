"""Debugger rules, over the tensors that smdebug saved. Their names and parameters are those of AWS's built-in rules."""

# Before any module of this package imports smdebug, whatever order a formatter gives their imports.
from debugger import compat as compat
