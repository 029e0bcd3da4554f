//! What this device signs with, and how a request is signed (SNWS2).
//!
//! ```text
//!  store ──load──▶ Credential ──replace──▶ Signer ──current──▶ sign ──▶ Authorization
//!    ▲                 │ key of one UTC day, usable for seven
//!    └── token import, refresh (both prove a key before they store it)
//! ```
//!
//! * [`key`]: secrets and keys. Wiped on drop, shown by no `Debug`, written by [`store`] only.
//! * [`sign`]: from a request to its signature; pure, right on the server's own vectors.
//! * [`query`], [`date`]: the two texts that both sides must spell alike.
//! * [`Remembered`]: the policy of a token here, as it was last seen.
//! * [`signer`]: the credential in use, for everyone who signs, replaceable while they do.
//!
//! It does not talk to the server: `refresh` fetches keys, `solarnet` sends requests.

pub mod date;
pub mod key;
pub mod query;
mod remembered;
pub mod sign;
pub mod signer;
pub mod store;

pub use key::{Credential, InvalidKey, InvalidSecret, SigningKey, TokenSecret};
pub use remembered::Remembered;
pub use sign::{Request, SignError, Signed, encode_query, http_date, sign, signing_key};
pub use signer::Signer;
pub use store::{
    Store,
    repository::{RepositoryCredential, RepositoryToken},
};
