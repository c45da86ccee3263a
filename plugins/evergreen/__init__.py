"""Everything the DAG names: settings, names, requests, operators, dataset sync."""
