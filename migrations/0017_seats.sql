-- Who has a seat where the plan allows fewer members than there are. Nobody is removed: who has none stays a member, and meets
-- nobody. Expand only: to older programs all members sit.
ALTER TABLE members ADD COLUMN seated BOOLEAN NOT NULL DEFAULT TRUE;
-- The owner wants it to stay seated before others.
ALTER TABLE members ADD COLUMN kept BOOLEAN NOT NULL DEFAULT FALSE;
CREATE INDEX members_unseated ON members (network) WHERE NOT seated AND NOT gone;

-- Networks whose seats are to be dealt out anew: written by the transaction that changes the plan of an owner, which must not lock
-- networks. No reference, so that it waits for nobody who changes the network.
CREATE TABLE reseatings (
    network BYTEA  PRIMARY KEY,
    -- Raised by every mark: whoever takes it away waits for those who make one.
    marks   BIGINT NOT NULL
);

-- Plans whose rows were changed: the networks of so many owners are marked in steps, by the ids of the owners.
CREATE TABLE reseating_plans (
    plan  TEXT  PRIMARY KEY,
    -- The owner that the last step ended with.
    after BYTEA NOT NULL
);

DROP INDEX clients_plan;
CREATE INDEX clients_plan ON clients (plan, id);
