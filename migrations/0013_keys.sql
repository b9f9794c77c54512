-- Identity keys that were followed by others. A client is its id: what hangs on it (addresses, memberships, bans, accounts,
-- what was relayed) stays where it is, and clients.identity is the newest key.

-- How often the key was changed. Expand only: older programs never change it.
ALTER TABLE clients ADD COLUMN successions BIGINT NOT NULL DEFAULT 0;

CREATE TABLE key_successions (
    client     BYTEA  NOT NULL REFERENCES clients (id),
    -- From 0.
    nth        BIGINT NOT NULL,
    -- The key that was given up: it never becomes anybody's again.
    given_up   BYTEA  NOT NULL UNIQUE,
    identity   BYTEA  NOT NULL UNIQUE,
    -- Both vouch for the change: members are told all of it.
    farewell   BYTEA  NOT NULL,
    consent    BYTEA  NOT NULL,
    rotated_ms BIGINT NOT NULL,
    PRIMARY KEY (client, nth)
);

-- For those whose tokens may still be valid.
CREATE INDEX key_successions_time ON key_successions (rotated_ms);
