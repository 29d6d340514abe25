//! Room of `upstream`.
