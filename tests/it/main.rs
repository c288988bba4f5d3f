//! The integration tests: one binary, one private Postgres, a database a test.

mod adoption;
mod agents;
mod dead;
mod doctor;
mod harness;
mod schema;
