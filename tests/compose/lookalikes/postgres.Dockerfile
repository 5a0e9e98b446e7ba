# Stands in for the upstream Postgres image where none can be pulled: the same
# variables, the same volume, the same stop signal.
FROM debian:bookworm
RUN apt-get update \
    && apt-get install --yes --no-install-recommends postgresql \
    && rm -rf /var/lib/apt/lists/* /var/lib/postgresql/*
ENV PATH=/usr/lib/postgresql/15/bin:${PATH} PGDATA=/var/lib/postgresql/15/docker
COPY postgres-entrypoint /usr/local/bin/
VOLUME /var/lib/postgresql
USER postgres
STOPSIGNAL SIGINT
ENTRYPOINT ["postgres-entrypoint"]
CMD ["postgres"]
