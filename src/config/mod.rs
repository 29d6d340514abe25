//! Room of `config`.
