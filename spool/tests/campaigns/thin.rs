//! A device that takes writes and cannot keep them.
