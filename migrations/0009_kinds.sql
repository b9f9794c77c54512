-- Which members of a network meet: 0 all, 1 hubs meet everybody and spokes meet hubs. Who is a hub stands with the member, and
-- counts in networks of that kind only.
ALTER TABLE networks ADD COLUMN kind BIGINT NOT NULL DEFAULT 0;
ALTER TABLE members ADD COLUMN hub BOOLEAN NOT NULL DEFAULT FALSE;
