//! Room of `spool`.
