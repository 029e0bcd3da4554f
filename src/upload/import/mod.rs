//! SolarUser's datum import: jobs of many rows, signed with a token; proof is a job that ended well.
//!
//! ```text
//!  queue ──claim──▶ batch (csv, multipart) ──▶ http ──Call──▶ solarnet ──▶ server
//!    ▲                                           │ receipt, status, refusal
//!    └── acknowledge · reject · release ── machine (retry, quarrel) ◀┘
//! ```
//!
//! [`task`] is the shell: it asks [`machine`] what to do, does it, and tells it what came of it. What
//! decides is pure and in [`machine`] (in the words of [`terms`]), [`super::quarrel`] and [`super::retry`]; what is sent is
//! pure and in [`batch`], [`csv`], [`multipart`] and [`http`].
//!
//! The rows of a job that ended well are handed to [`super::proof`], which acknowledges them.
//!
//! What it does not do: it never decides what an HTTP status means (`solarnet::answer` does), and
//! acknowledges nothing for a 2xx.

pub mod batch;
pub mod csv;
pub mod http;
pub mod machine;
pub mod multipart;
pub mod task;
pub mod terms;

pub use task::Uploader;
