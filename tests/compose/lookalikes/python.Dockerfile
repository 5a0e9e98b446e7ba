# Stands in for python:3.11-slim where no image can be pulled.
FROM debian:bookworm
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        ca-certificates python3 python3-pip python3-venv \
    && ln -s python3 /usr/bin/python \
    && rm -rf /var/lib/apt/lists/*
CMD ["python3"]
