//! The order, the head and what may pass it.
