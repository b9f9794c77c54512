//! Durable state: clients, networks, members and addresses in SQLite or Postgres.
