"""The pages that the plugin adds to Airflow's web UI: reports, jobs and endpoints of a run, the overview."""
