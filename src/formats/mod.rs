//! Room of `formats`.
