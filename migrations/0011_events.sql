-- What happened, for programs of operators: a bounded log that every admin process reads, so that a stream of events or a
-- webhook goes on where it was, whoever serves it.

-- One row: the lock under which the log is written, and its end. One admin process at a time leads: it watches what has no row.
CREATE TABLE event_head (
    one      BIGINT PRIMARY KEY CHECK (one = 1),
    sequence BIGINT NOT NULL,
    leader   BYTEA  NOT NULL,
    until_ms BIGINT NOT NULL
);

INSERT INTO event_head (one, sequence, leader, until_ms) VALUES (1, 0, '', 0);

-- Written by the transaction that makes it true. Numbers are given later, under the lock: transactions end in another order than
-- they begin, and a reader must never see 7 before 6.
CREATE TABLE event_outbox (
    id      BYTEA  PRIMARY KEY,
    at_ms   BIGINT NOT NULL,
    -- The name of the kind.
    kind    TEXT   NOT NULL,
    client  BYTEA,
    peer    BYTEA,
    network BYTEA,
    account BYTEA,
    relay   BYTEA,
    percent BIGINT
);

-- The newest events. Ids only: nothing that refers to anybody by name.
CREATE TABLE events (
    sequence BIGINT PRIMARY KEY,
    -- Begins with its milliseconds: what is old is found by it.
    id       BYTEA  NOT NULL UNIQUE,
    at_ms    BIGINT NOT NULL,
    kind     TEXT   NOT NULL,
    client   BYTEA,
    peer     BYTEA,
    network  BYTEA,
    account  BYTEA,
    relay    BYTEA,
    percent  BIGINT
);
