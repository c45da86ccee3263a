# Stands in for postgres:16 where no registry can be reached: Debian's Postgres, started as the official image starts
# it, with a database of POSTGRES_USER's in a new volume.
ARG DEBIAN=evergreen-stand-in-debian
FROM $DEBIAN
RUN apt-get update -qq && apt-get install -qq --yes --no-install-recommends postgresql > /dev/null \
    && rm -rf /var/lib/apt/lists/* /var/lib/postgresql/*/main && ln -s /usr/lib/postgresql/*/bin /usr/lib/postgresql/bin
COPY postgres.sh /entrypoint
ENV PATH=/usr/lib/postgresql/bin:$PATH PGDATA=/var/lib/postgresql/data
RUN install -d -o postgres -g postgres -m 700 $PGDATA /run/postgresql
USER postgres
STOPSIGNAL SIGINT
ENTRYPOINT ["/entrypoint"]
CMD ["postgres"]
