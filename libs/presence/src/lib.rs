//! Who is online, where and since when, and short leases; in process or in Redis.
