//! The engine, judged step by step in virtual time.

mod answers;
mod changes;
mod clocks;
mod days;
mod ends;
mod estimates;
mod faults;
mod keys;
mod learning;
mod order;
mod retries;
mod routes;
mod sharing;
mod starts;
mod throttles;
mod walk;
mod world;
