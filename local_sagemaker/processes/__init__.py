"""How processes are started, contained and ended."""
