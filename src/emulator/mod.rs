//! Room of `emulator`.
