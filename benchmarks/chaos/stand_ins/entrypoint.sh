#!/bin/bash
# As Apache's: bash, python and airflow are commands, anything else is one of airflow's.
case "${1:-}" in
    airflow | bash | python) exec "$@" ;;
    *) exec airflow "$@" ;;
esac
