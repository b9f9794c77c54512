-- Programs that are told what happens. Each has a place in the log of events: what stands before it was taken, or given up.

CREATE TABLE webhooks (
    id         BYTEA  PRIMARY KEY,
    name       TEXT   NOT NULL,
    url        TEXT   NOT NULL,
    -- Words with a blank between; empty: all.
    kinds      TEXT   NOT NULL,
    networks   TEXT   NOT NULL,
    accounts   TEXT   NOT NULL,
    -- 0 active, 1 paused by an operator, 2 paused because it failed for too long.
    state      BIGINT NOT NULL,
    -- The secret is derived from this and a key that is not in the database. For a while the one before it counts, too.
    nonce      BYTEA  NOT NULL,
    old_nonce  BYTEA,
    old_until_ms BIGINT,
    -- Raised by every change of an operator.
    revision   BIGINT NOT NULL,
    made_ms    BIGINT NOT NULL,
    place      BIGINT NOT NULL,
    -- Not before.
    due_ms     BIGINT NOT NULL,
    -- Since when nothing was taken.
    failing_ms BIGINT,
    tried_ms   BIGINT,
    delivered  BIGINT NOT NULL,
    dead       BIGINT NOT NULL,
    -- Events that were forgotten before it was their turn.
    missed     BIGINT NOT NULL,
    -- The process that tells it, and until when nobody else does: so there is one order.
    holder     BYTEA  NOT NULL,
    held_ms    BIGINT NOT NULL
);

-- What was tried. Of what was taken only the newest are kept; of what was given up, the newest thousand.
CREATE TABLE webhook_deliveries (
    webhook  BYTEA  NOT NULL REFERENCES webhooks (id),
    sequence BIGINT NOT NULL,
    event    BYTEA  NOT NULL,
    kind     TEXT   NOT NULL,
    -- 0 taken, 1 to be tried again, 2 to be sent again because an operator wants it, 3 given up.
    state    BIGINT NOT NULL,
    tries    BIGINT NOT NULL,
    -- HTTP status; 0 without an answer.
    status   BIGINT NOT NULL,
    reason   TEXT   NOT NULL,
    -- As it was sent, for when the event itself is forgotten.
    body     TEXT   NOT NULL,
    tried_ms BIGINT NOT NULL,
    PRIMARY KEY (webhook, sequence)
);

CREATE INDEX webhook_deliveries_state ON webhook_deliveries (webhook, state, sequence);
CREATE INDEX webhook_deliveries_event ON webhook_deliveries (webhook, event);
