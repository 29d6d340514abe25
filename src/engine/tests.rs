//! The engine, judged step by step in virtual time.

mod answers;
mod days;
mod ends;
mod faults;
mod order;
mod routes;
mod throttles;
mod walk;
mod world;
