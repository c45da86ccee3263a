"""What a retraining run is judged by, and the report that says so."""
