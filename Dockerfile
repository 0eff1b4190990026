# syntax=docker/dockerfile:1
# One image for every process: worker, api, dashboard, sandbox, db upgrade.

FROM python:3.11-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /opt/enrichment
COPY pyproject.toml README.md LICENSE app.py ./
COPY enrichment ./enrichment
COPY resilience ./resilience
COPY api ./api
RUN /opt/enrichment/bin/pip install --no-cache-dir '.[yahoo]'

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/enrichment enrichment
COPY --from=build /opt/enrichment /opt/enrichment
ENV PATH=/opt/enrichment/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    ENRICHMENT_HOME=/var/lib/enrichment \
    LOG_FORMAT=json
USER 10001
WORKDIR /var/lib/enrichment
EXPOSE 8000 8501
STOPSIGNAL SIGTERM
# Fits the API; compose.yaml has the checks of the other processes.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/livez', timeout=2)"]
ENTRYPOINT ["enrichment"]
CMD ["api"]
