-- Networks whose members lead others to networks behind them. To older programs they are networks of hubs and spokes (kind 1), in
-- which the same members meet. Prefixes stand with the member, parted by blanks: where it leads to, and to which of these its own
-- machine agreed.
ALTER TABLE networks ADD COLUMN routed BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE members ADD COLUMN routes TEXT NOT NULL DEFAULT '';
ALTER TABLE members ADD COLUMN agreed TEXT NOT NULL DEFAULT '';
