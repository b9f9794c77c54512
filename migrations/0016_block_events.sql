-- Events about what operators hold against whom: which block it is. It is no reference, as the event outlives the block.
ALTER TABLE event_outbox ADD COLUMN block BYTEA;
ALTER TABLE events ADD COLUMN block BYTEA;
