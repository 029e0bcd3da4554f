//! What instructions may ask of the node itself: a trait, so that tests restart nothing.

use tracing::level_filters::LevelFilter;

/// Acts on the node: systemd, the log and the certificate in the daemon, a fake in tests.
pub trait Services: Send + Sync {
    /// What tells one life from the next: after a restart of the agent, or of the machine, it is another.
    fn life(&self, of: Life) -> String;

    /// Ends the agent soon, so that it is started again. Returns at once.
    fn restart(&self);

    /// Asks for a restart of the machine. Returns once somebody has taken that over.
    ///
    /// The error says in words why nobody did; the machine then surely goes on.
    fn reboot(&self) -> impl Future<Output = Result<(), String>> + Send;

    /// Logs these modules from `level` on, or as at the start; until the agent restarts.
    ///
    /// Says what is in force, or in words why nothing was changed.
    fn log_level(&self, loggers: &[String], level: Option<LevelFilter>) -> Result<String, String>;

    /// Uses this certificate (PKCS#7 in PEM) from now on.
    ///
    /// Says which it is, or in words why the one before is still in use.
    fn install_certificate(
        &self,
        certificate: String,
    ) -> impl Future<Output = Result<String, String>> + Send;
}

/// What can start again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// This process.
    Agent,
    /// The machine.
    Machine,
}
