-- The monthly relay quota: bytes that a payer may have relayed in a calendar month (UTC), over all relays together. The
-- largest BIGINT means no limit, as for rates. Expand only: older programs name the columns that they insert.

ALTER TABLE plans ADD COLUMN relay_bytes_per_month BIGINT NOT NULL DEFAULT 10737418240;

UPDATE plans SET relay_bytes_per_month = 536870912000 WHERE name = 'standard';
UPDATE plans SET relay_bytes_per_month = 9223372036854775807 WHERE name = 'premium';

-- What was relayed for whom: the count that a bill would show. A payer is a client until there are accounts; its row
-- among the clients is the lock under which both of these tables are written.
CREATE TABLE relay_usage (
    payer BYTEA  NOT NULL,
    -- Twelve times the year plus the months before this one.
    month BIGINT NOT NULL,
    bytes BIGINT NOT NULL,
    PRIMARY KEY (payer, month)
);

-- What relays hold. All numbers but the serial are totals since the lease was opened, so that a report that is lost,
-- repeated or overtaken changes nothing. An ended lease stays for a day, as the answer to reports that arrive late.
CREATE TABLE relay_leases (
    lease      BYTEA   PRIMARY KEY,
    payer      BYTEA   NOT NULL,
    -- Of the newest report that was heard.
    serial     BIGINT  NOT NULL,
    spent      BIGINT  NOT NULL,
    granted    BIGINT  NOT NULL,
    ended      BOOLEAN NOT NULL,
    -- From then on the rest of the grant is free again: the relay is gone, or cut off.
    expires_ms BIGINT  NOT NULL
);

CREATE INDEX relay_leases_payer ON relay_leases (payer, expires_ms);
