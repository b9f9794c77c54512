-- What operators search by. Bytes, because both engines order them alike, whatever the collation: the first letters of a
-- name are a range of the index.

-- The nickname in lower case. Empty while it was not filled in; NULL never means that there is a nickname.
ALTER TABLE clients ADD COLUMN nick_bytes BYTEA;
CREATE INDEX clients_nick ON clients (nick_bytes, id) WHERE nick_bytes IS NOT NULL;
-- What programs before this one left to be filled in when the store is opened.
CREATE INDEX clients_nick_missing ON clients (id) WHERE nick IS NOT NULL AND nick_bytes IS NULL;

-- networks.name_key.
ALTER TABLE networks ADD COLUMN name_bytes BYTEA;
CREATE INDEX networks_name ON networks (name_bytes, id) WHERE name_bytes IS NOT NULL;
CREATE INDEX networks_name_missing ON networks (id) WHERE name_bytes IS NULL;

-- Whether anybody has a plan.
CREATE INDEX clients_plan ON clients (plan);

-- A month's usage, by payer.
CREATE INDEX relay_usage_month ON relay_usage (month, payer);
