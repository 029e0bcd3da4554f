//! SolarNetwork's tokens, managed through SolarUser with a manager's credential.
//!
//! ```text
//!  cli ──▶ Manager ──calls──▶ solarnet ──▶ SolarUser        calls: what is asked, what is answered (pure)
//!           │ Listing (what there is, and whether the manager may)
//!           ├ Issue: the record of a token being issued, for the case of being killed (pure)
//!           └ Rotation: the record of a token being replaced, and which step is next (pure)
//! ```
//!
//! * [`calls`]: the eight calls of token management, and how their answers are read; pure.
//! * [`manager`]: acts with a credential that exists for one command only. Before it changes anything it
//!   lists the tokens: that tells whether the manager may, and what there is. A policy that comes back
//!   is compared with the one that was sent.
//! * [`issue`]: how a token that was issued and never arrived here is found again; pure.
//! * [`rotation`]: how a token is replaced by its successor, whatever is killed when; pure.
//!
//! It stores nothing (`credential::Store` does), asks nobody, and prints nothing.

pub mod calls;
pub mod issue;
pub mod manager;
pub mod rotation;

pub use calls::Token;
pub use issue::Issue;
pub use manager::{Listing, Manager, TokensError};
pub use rotation::Rotation;
