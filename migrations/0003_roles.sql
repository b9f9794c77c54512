-- Roles, bans, applicants, and networks that are locked, renamed or deleted.

-- 0 is a member, 1 an admin. The owner stands in networks.owner alone, so that there is always exactly one.
ALTER TABLE members ADD COLUMN role BIGINT NOT NULL DEFAULT 0;

ALTER TABLE networks ADD COLUMN locked BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE networks ADD COLUMN approval BOOLEAN NOT NULL DEFAULT FALSE;
-- A deleted network stays until its members were told.
ALTER TABLE networks ADD COLUMN deleted BOOLEAN NOT NULL DEFAULT FALSE;
-- What the password was registered under: the name at that time. A later name does not change it, and while it is in use
-- nobody else gets that name, because the server's answers for both would come from one key.
ALTER TABLE networks ADD COLUMN credential TEXT NOT NULL DEFAULT '';
UPDATE networks SET credential = name_key;
CREATE UNIQUE INDEX networks_credential ON networks (credential);

CREATE TABLE bans (
    network   BYTEA  NOT NULL REFERENCES networks (id),
    client    BYTEA  NOT NULL REFERENCES clients (id),
    banned_ms BIGINT NOT NULL,
    PRIMARY KEY (network, client)
);

CREATE INDEX bans_client ON bans (client);

-- Clients that know the password and wait for approval.
CREATE TABLE applicants (
    network  BYTEA  NOT NULL REFERENCES networks (id),
    client   BYTEA  NOT NULL REFERENCES clients (id),
    asked_ms BIGINT NOT NULL,
    PRIMARY KEY (network, client)
);

CREATE INDEX applicants_client ON applicants (client);
