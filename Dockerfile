# The server of ml_code/serving with all that a model archive needs. For any host, and as a SageMaker container of one's
# own (an endpoint or a batch transform starts it with the argument `serve`):
#
#   docker build --tag evergreen-serving .
#   docker run -p 8080:8080 -v "$PWD/model:/opt/ml/model:ro" evergreen-serving
#   curl --data-binary @image.jpg -H 'Content-Type: image/jpeg' http://127.0.0.1:8080/invocations
#
# model/ is an unpacked model.tar.gz. BASE is any image with Python 3.11 to 3.13 and its venv module; for GPUs choose one
# with the libraries that its driver wants, and TORCH_BACKEND=cu128; an empty one takes PyPI's torch. Settings are
# environment variables: ml_code/serving/server.py.
ARG BASE=python:3.12-slim

FROM $BASE AS packages
ARG TORCH_BACKEND=cpu
COPY ml_code/requirements-image.txt ml_code/requirements-inference.txt ml_code/requirements-serving.txt \
     ml_code/requirements.lock /build/
# uv, because it takes torch and torchvision from one index.
RUN python3 -m venv /build/uv && /build/uv/bin/pip install --quiet --no-cache-dir uv \
    && python3 -m venv --without-pip /opt/venv \
    && /build/uv/bin/uv pip install --quiet --no-cache --compile-bytecode --python /opt/venv/bin/python \
       ${TORCH_BACKEND:+--torch-backend $TORCH_BACKEND} --constraints /build/requirements.lock \
       -r /build/requirements-image.txt -r /build/requirements-inference.txt -r /build/requirements-serving.txt

FROM $BASE
COPY --from=packages /opt/venv /opt/venv
COPY ml_code/inference.py /opt/serving/
COPY ml_code/data /opt/serving/data
COPY ml_code/model /opt/serving/model
COPY ml_code/serving /opt/serving/serving
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/opt/serving PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    SAGEMAKER_BIND_HOST=0.0.0.0 OMP_WAIT_POLICY=PASSIVE
RUN useradd --system --uid 1000 --no-create-home serving && mkdir -p /opt/ml/model
USER serving
EXPOSE 8080
# https://docs.aws.amazon.com/sagemaker/latest/dg/inference-pipelines.html: it reads SAGEMAKER_BIND_TO_PORT.
LABEL com.amazonaws.sagemaker.capabilities.accept-bind-to-port=true
HEALTHCHECK --interval=10s --start-period=60s CMD ["python", "-c", \
    "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ.get('SAGEMAKER_BIND_TO_PORT', '8080') + '/ping', timeout=2)"]
ENTRYPOINT ["python", "-m", "serving.server"]
