-- A machine that belongs to an account draws on the account's monthly relay quota. Expand only: what older programs count is
-- counted for the machine alone.

-- How much of a machine's bytes counted against the quota of an account; the rest counted against its own.
ALTER TABLE relay_usage ADD COLUMN on_account BIGINT NOT NULL DEFAULT 0;

-- What was relayed for all machines of an account, while they belonged to it. The account's row is the lock under which this is
-- written, and under which its quota is granted.
CREATE TABLE account_usage (
    account BYTEA  NOT NULL,
    month   BIGINT NOT NULL,
    bytes   BIGINT NOT NULL,
    PRIMARY KEY (account, month)
);

-- Whose quota a lease holds a part of; NULL: the payer's own.
ALTER TABLE relay_leases ADD COLUMN account BYTEA;
CREATE INDEX relay_leases_account ON relay_leases (account, expires_ms) WHERE account IS NOT NULL;
