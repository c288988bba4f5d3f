//! The SQL that this binary carries: each file of `sql/queries/` and `sql/policies/` is a constant of its name. The list is
//! made by `sql/build.rs`.

include!(concat!(env!("OUT_DIR"), "/sql.rs"));
