-- What operators and their programs do, and did. Owned by the admin role alone.

-- Tokens of the API. What a token is compared by is the SHA-256 of it: 32 random bytes need no slow hash, and a leaked
-- database opens nothing.
CREATE TABLE tokens (
    id         BYTEA  PRIMARY KEY,
    digest     BYTEA  NOT NULL UNIQUE,
    name       TEXT   NOT NULL,
    -- Names with a blank between.
    scopes     TEXT   NOT NULL,
    -- Who made it, in the words of the audit log.
    maker      TEXT   NOT NULL,
    made_ms    BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL,
    used_ms    BIGINT,
    -- A revoked token stays: the audit log names it.
    revoked_ms BIGINT
);

-- The audit log: append-only, each entry bound to the one before it by its digest. Dropping or changing one breaks the chain
-- from there on; whoever keeps the newest digest elsewhere notices a log that was cut or written anew.
CREATE TABLE audit (
    sequence BIGINT PRIMARY KEY,
    previous BYTEA  NOT NULL,
    digest   BYTEA  NOT NULL,
    at_ms    BIGINT NOT NULL,
    -- The token, or 'root'.
    who      TEXT   NOT NULL,
    action   TEXT   NOT NULL,
    object   TEXT   NOT NULL,
    request  TEXT   NOT NULL,
    -- The entry that says what was asked for, when this one says what became of it; otherwise 0.
    asked    BIGINT NOT NULL,
    -- HTTP status of the outcome; 0 while it is only asked for.
    status   BIGINT NOT NULL,
    -- JSON documents, or empty.
    before   TEXT   NOT NULL,
    after    TEXT   NOT NULL
);

CREATE INDEX audit_who ON audit (who, sequence);
CREATE INDEX audit_action ON audit (action, sequence);
CREATE INDEX audit_object ON audit (object, sequence);

-- One row: the lock under which entries are written, and the end of the chain.
CREATE TABLE audit_head (
    one      BIGINT PRIMARY KEY CHECK (one = 1),
    sequence BIGINT NOT NULL,
    digest   BYTEA  NOT NULL
);

INSERT INTO audit_head (one, sequence, digest) VALUES (1, 0, '');

-- Answers to requests that may be repeated. The answer is sealed under a key that only the bearer of the token has.
CREATE TABLE idempotency (
    who        TEXT   NOT NULL,
    key        TEXT   NOT NULL,
    -- Of method, path and body.
    request    BYTEA  NOT NULL,
    begun_ms   BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL,
    -- 0 until it is answered.
    status     BIGINT NOT NULL,
    answer     BYTEA  NOT NULL,
    PRIMARY KEY (who, key)
);

CREATE INDEX idempotency_expiry ON idempotency (expires_ms);
