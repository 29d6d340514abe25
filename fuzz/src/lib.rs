//! The parsers of job files, without the rest of the program, so that they build in seconds.

#[path = "../../src/formats/mod.rs"]
pub mod formats;
#[path = "../../src/spool/records.rs"]
pub mod records;
