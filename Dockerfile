# The operator's image: no Ray, no compiler, no root. Ray is reached through custom resources.
#   docker build -t flopwise/operator:0.1.0 .
# That of a node's collector: it reads the driver and the kubelet, and knows no Kubernetes client.
#   docker build -t flopwise/collector:0.1.0 --build-arg LOCK=collector .
# BASE may be given with a digest, so that the same build stays the same.
ARG BASE=python:3.12-slim

FROM ${BASE} AS build
ARG LOCK=operator
WORKDIR /src
RUN python -m venv /opt/flopwise
COPY requirements/operator.txt requirements/collector.txt requirements/
# What is not pinned by its hash, or would run code to install, is refused.
RUN /opt/flopwise/bin/pip install --no-cache-dir --require-hashes --only-binary :all: \
    -r requirements/${LOCK}.txt
COPY pyproject.toml README.md LICENSE ./
COPY cost_models cost_models
COPY telemetry telemetry
COPY planner planner
COPY scheduler scheduler
COPY flopwise flopwise
RUN /opt/flopwise/bin/pip install --no-cache-dir --no-index --no-deps --no-build-isolation . \
    && /opt/flopwise/bin/pip uninstall --yes --quiet setuptools pip

FROM ${BASE}
LABEL org.opencontainers.image.title="flopwise" \
      org.opencontainers.image.description="Plans and runs GPU work at the least cost per useful FLOP" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/flopwise /opt/flopwise
# The root file system may be read-only: compiled code goes where a volume can be.
ENV PATH=/opt/flopwise/bin:$PATH \
    HOME=/tmp \
    XDG_CACHE_HOME=/tmp/cache \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 65532:65532
WORKDIR /tmp
ENTRYPOINT ["flopwise"]
CMD ["operator", "run"]
