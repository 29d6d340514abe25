//! Room of `calendar`.
