-- From schema 1, which had one weight for all shards, no raises and no settings.
INSERT INTO releases
    (service, state, schedule_time_ms, weights, raised_from, schedule, shards, canary, settings, reason, updated_ms)
SELECT service, state, schedule_time_ms, CAST(weight_hundredths AS TEXT), NULL, schedule, '', canary, '', reason, updated_ms
FROM releases_1;
DROP TABLE releases_1;
