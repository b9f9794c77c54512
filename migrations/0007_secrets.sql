-- Newer secrets of networks. The server counts them and carries them, sealed for each member; it never sees one.

-- The newest, and the one that the password and the invites open.
ALTER TABLE networks ADD COLUMN secret_epoch BIGINT NOT NULL DEFAULT 1;
ALTER TABLE networks ADD COLUMN door_epoch BIGINT NOT NULL DEFAULT 1;
-- 1: somebody left, 2: somebody was removed, and knows the newest secret; and with which revision that was. The statement
-- that installs a newer one clears it.
ALTER TABLE networks ADD COLUMN secret_wanted BIGINT NOT NULL DEFAULT 0;
ALTER TABLE networks ADD COLUMN secret_wanted_at BIGINT NOT NULL DEFAULT 0;

-- What a member has proved to have, to those who have it as well; 0 is nothing.
ALTER TABLE members ADD COLUMN proof_epoch BIGINT NOT NULL DEFAULT 0;
ALTER TABLE members ADD COLUMN proof BYTEA;
-- The newest secret that was sealed for it.
ALTER TABLE members ADD COLUMN seal_epoch BIGINT NOT NULL DEFAULT 0;
ALTER TABLE members ADD COLUMN seal BYTEA;
