# Stands in for redis:7.2 where no registry can be reached: Debian's Redis.
ARG DEBIAN=evergreen-stand-in-debian
FROM $DEBIAN
RUN apt-get update -qq && apt-get install -qq --yes --no-install-recommends redis-server > /dev/null \
    && rm -rf /var/lib/apt/lists/* && install -d -o redis -g redis /data
USER redis
WORKDIR /data
CMD ["redis-server"]
