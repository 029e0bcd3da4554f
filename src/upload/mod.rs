//! Upload.
pub mod batch;
pub mod csv;
pub mod machine;
pub mod multipart;
pub mod quarrel;
pub mod retry;
