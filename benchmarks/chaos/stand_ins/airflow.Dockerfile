# Stands in for apache/airflow:3.3.2-python3.12 where no registry can be reached: user, folders, virtual environment,
# entry point and tools as in https://airflow.apache.org/docs/docker-stack/, of Airflow's providers only those of our
# requirements.
ARG DEBIAN=evergreen-stand-in-debian
FROM $DEBIAN
RUN apt-get update -qq && apt-get install -qq --yes --no-install-recommends curl dumb-init git > /dev/null \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 50000 --gid 0 --create-home airflow && install -d -o airflow -g 0 /opt/airflow
COPY entrypoint.sh /entrypoint
ENV AIRFLOW_HOME=/opt/airflow AIRFLOW_USER_HOME_DIR=/home/airflow VIRTUAL_ENV=/home/airflow/.local \
    PATH=/home/airflow/.local/bin:$PATH
USER airflow
WORKDIR /opt/airflow
ARG VERSION
RUN python3 -m venv $VIRTUAL_ENV && pip install --quiet --no-cache-dir uv \
    && uv pip install --quiet --no-cache --compile-bytecode "apache-airflow==$VERSION"
ENTRYPOINT ["/usr/bin/dumb-init", "--", "/entrypoint"]
CMD []
