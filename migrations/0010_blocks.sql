-- What operators hold against whom. Only what counts: a block that was lifted, or whose time is over, is deleted, and the audit
-- log tells of it. Nothing here refers to other tables, because a key can be blocked before it was ever seen.
CREATE TABLE blocks (
    id         BYTEA  PRIMARY KEY,
    -- 0 addresses, 1 a client, 2 an account, 3 a network.
    kind       BIGINT NOT NULL,
    -- The id; of addresses the length of the prefix in bits, then the address.
    target     BYTEA  NOT NULL,
    -- 0 slow, 1 challenge, 2 refuse.
    degree     BIGINT NOT NULL,
    reason     TEXT   NOT NULL,
    -- Who made it, in the words of the audit log.
    maker      TEXT   NOT NULL,
    made_ms    BIGINT NOT NULL,
    -- There is none without an end.
    expires_ms BIGINT NOT NULL,
    -- Raised by every change.
    revision   BIGINT NOT NULL,
    UNIQUE (kind, target)
);

CREATE INDEX blocks_expiry ON blocks (expires_ms);
