//! Postbell.
