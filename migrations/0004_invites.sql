-- Links that let somebody in without the password. What the link holds never comes here: only what it proves itself with,
-- hashed, and the network secret, sealed under the rest of the link.
CREATE TABLE invites (
    id            BYTEA  PRIMARY KEY,
    network       BYTEA  NOT NULL REFERENCES networks (id),
    -- Who is removed or loses its role takes its invites along.
    maker         BYTEA  NOT NULL REFERENCES clients (id),
    sealed_secret BYTEA  NOT NULL,
    uses          BIGINT NOT NULL,
    remaining     BIGINT NOT NULL,
    made_ms       BIGINT NOT NULL,
    expires_ms    BIGINT NOT NULL
);

CREATE INDEX invites_network ON invites (network, maker);
CREATE INDEX invites_maker ON invites (maker);
