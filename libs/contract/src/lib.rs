//! What the roles say to one another: calls, refusals, events and token claims.
