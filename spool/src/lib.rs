//! A durable queue of opaque records.
