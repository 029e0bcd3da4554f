//! The configuration: as written, as merged, as checked.

pub mod settings;

pub use settings::Settings;
