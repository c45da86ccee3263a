# Airflow with the pipelines, the plugin and the code of the jobs: every Airflow service of docker-compose.yaml.
#
#   docker build --tag evergreen-airflow --file docker/airflow.Dockerfile .
#
# BASE is Apache's image, or any image that keeps its contract: user airflow (50000, group 0), $AIRFLOW_HOME of
# /opt/airflow, uv, and a virtual environment of Airflow's at $VIRTUAL_ENV.
ARG BASE=apache/airflow:3.3.2-python3.12
FROM $BASE
COPY overrides.txt requirements.lock requirements.txt /opt/evergreen/
COPY docker/requirements.lock docker/requirements.txt /opt/evergreen/docker/
# Compiled here, because a container that is started anew would compile Airflow's 20,000 modules again.
RUN uv pip install --quiet --no-cache --compile-bytecode --overrides /opt/evergreen/overrides.txt \
       --constraints /opt/evergreen/docker/requirements.lock \
       -r /opt/evergreen/requirements.txt -r /opt/evergreen/docker/requirements.txt
# A new volume takes its owner from the folder that it is mounted on.
RUN mkdir -p /opt/airflow/evergreen /opt/airflow/logs /opt/airflow/var/data
COPY --chown=airflow:0 dags /opt/airflow/dags
COPY --chown=airflow:0 plugins /opt/airflow/plugins
COPY --chown=airflow:0 ml_code /opt/airflow/ml_code
RUN python -m compileall -q /opt/airflow/dags /opt/airflow/plugins
