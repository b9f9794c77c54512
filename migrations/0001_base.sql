-- Clients, networks and members. Written so that SQLite and Postgres both accept it: instants are BIGINT milliseconds
-- named _ms, ids and keys are BYTEA, and there is nothing that has to be altered in place later.

-- One row: what all replicas of a deployment share. Made by the first process that needs it.
CREATE TABLE deployment (
    one       BIGINT PRIMARY KEY CHECK (one = 1),
    id        BYTEA  NOT NULL,
    -- The 40 random bits of the deployment's ULA prefix (RFC 4193).
    global_id BYTEA  NOT NULL
);

-- Limits are data. The largest BIGINT as a rate means no limit, so that MAX and MIN order rates without special cases.
CREATE TABLE plans (
    name                   TEXT   PRIMARY KEY,
    members_per_network    BIGINT NOT NULL,
    networks_per_client    BIGINT NOT NULL,
    relay_bytes_per_second BIGINT NOT NULL
);

INSERT INTO plans (name, members_per_network, networks_per_client, relay_bytes_per_second) VALUES
    ('free',     5,   256, 1000),
    ('standard', 32,  256, 125000),
    ('premium',  256, 256, 9223372036854775807);

CREATE TABLE clients (
    id               BYTEA   PRIMARY KEY,
    identity         BYTEA   NOT NULL UNIQUE,
    tunnel           BYTEA   NOT NULL,
    tunnel_signature BYTEA   NOT NULL,
    nick             TEXT,
    plan             TEXT    NOT NULL REFERENCES plans (name),
    blocked          BOOLEAN NOT NULL,
    registered_ms    BIGINT  NOT NULL,
    seen_ms          BIGINT  NOT NULL
);

-- IPv4 addresses as numbers. A row is never deleted: an address belongs to one client, for ever. Both indexes together
-- are the whole allocation rule; the address itself is stored, so that another pool later moves nobody.
CREATE TABLE addresses (
    address BIGINT PRIMARY KEY,
    client  BYTEA  NOT NULL UNIQUE REFERENCES clients (id)
);

CREATE TABLE networks (
    id             BYTEA  PRIMARY KEY,
    name           TEXT   NOT NULL,
    -- The confusable skeleton of the name: names that look alike are one name.
    name_key       TEXT   NOT NULL UNIQUE,
    owner          BYTEA  NOT NULL REFERENCES clients (id),
    -- The OPAQUE registration record and the network secret sealed under its export key.
    password       BYTEA  NOT NULL,
    wrapped_secret BYTEA  NOT NULL,
    -- Raised by the first statement of every write: the lock, and the number that clients synchronise by.
    revision       BIGINT NOT NULL,
    -- The outbox: members were told everything up to this revision.
    announced      BIGINT NOT NULL,
    -- Members who left at or before this revision may be forgotten: whoever knows less needs the whole network.
    forgotten      BIGINT NOT NULL,
    created_ms     BIGINT NOT NULL,
    changed_ms     BIGINT NOT NULL
);

CREATE INDEX networks_unannounced ON networks (changed_ms) WHERE announced < revision;
-- For the check that a client still exists, and for the plans of owners.
CREATE INDEX networks_owner ON networks (owner);

-- Those who left stay as tombstones, so that a delta can say so.
CREATE TABLE members (
    network   BYTEA   NOT NULL REFERENCES networks (id),
    client    BYTEA   NOT NULL REFERENCES clients (id),
    -- The request that made the membership: a repeated one gets the same answer.
    request   BYTEA   NOT NULL,
    revision  BIGINT  NOT NULL,
    gone      BOOLEAN NOT NULL,
    joined_ms BIGINT  NOT NULL,
    PRIMARY KEY (network, client)
);

CREATE INDEX members_revision ON members (network, revision);
CREATE INDEX members_client ON members (client, network) WHERE NOT gone;

-- Attempts that were spent of budgets. A row ends with its window.
CREATE TABLE guesses (
    kind       BIGINT NOT NULL,
    key        BYTEA  NOT NULL,
    spent      BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL,
    PRIMARY KEY (kind, key)
);

CREATE INDEX guesses_expiry ON guesses (expires_ms);
