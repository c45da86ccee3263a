# The local cloud with the environments that its jobs and endpoints run in: the profile `local` of docker-compose.yaml.
#
#   docker build --tag evergreen-local-sagemaker --file docker/local_sagemaker.Dockerfile .
#   docker run --shm-size 1g -p 127.0.0.1:7700:7700 -p 127.0.0.1:7701:7701 evergreen-local-sagemaker
#
# BASE is any image with Python 3.11 to 3.13 and its venv module. An empty TORCH_BACKEND takes PyPI's torch, which is
# built for GPUs and five times as large.
ARG BASE=python:3.12-slim
FROM $BASE
ARG TORCH_BACKEND=cpu
WORKDIR /opt/evergreen
# The user and the group of Airflow's image: both write to the volume of the datasets.
RUN useradd --uid 50000 --gid 0 --create-home evergreen \
    && mkdir -p var/cloud var/data && chown -R evergreen:0 var
COPY overrides.txt ./
COPY local_sagemaker/requirements.txt local_sagemaker/requirements.lock local_sagemaker/
# uv is what the local cloud installs a job's requirements with, and here all of its environments. It takes torch and
# torchvision from one index.
RUN python3 -m venv var/venv/cloud && var/venv/cloud/bin/pip install --quiet --no-cache-dir uv \
    && var/venv/cloud/bin/uv pip install --quiet --no-cache --compile-bytecode --python var/venv/cloud/bin/python \
       --overrides overrides.txt --constraints local_sagemaker/requirements.lock -r local_sagemaker/requirements.txt
COPY ml_code/requirements*.txt ml_code/requirements.lock ml_code/
RUN python3 -m venv --without-pip var/venv/ml \
    && var/venv/cloud/bin/uv pip install --quiet --no-cache --compile-bytecode --python var/venv/ml/bin/python \
       ${TORCH_BACKEND:+--torch-backend $TORCH_BACKEND} \
       --overrides overrides.txt --constraints ml_code/requirements.lock -r ml_code/requirements-image.txt \
       -r ml_code/requirements.txt -r ml_code/requirements-serving.txt -r ml_code/requirements-no-deps.txt
COPY aws/policies aws/policies
COPY local_sagemaker local_sagemaker
COPY ml_code ml_code
COPY scripts scripts
RUN var/venv/cloud/bin/python -m compileall -q local_sagemaker scripts
ENV PYTHONUNBUFFERED=1
USER evergreen
EXPOSE 7700 7701
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s CMD ["var/venv/cloud/bin/python", "-c", \
    "import urllib.request as u; u.urlopen('http://127.0.0.1:7700/', timeout=3)"]
ENTRYPOINT ["var/venv/cloud/bin/python", "-m", "scripts.cloud_container"]
