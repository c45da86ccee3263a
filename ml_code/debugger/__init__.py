"""smdebug: the hook that saves tensors during training, and the rules that judge them."""

# Before any module of this package imports smdebug, whatever order a formatter gives their imports.
from debugger import compat as compat
