//! What tasks ask of the runtime that they share one thread of, and of the memory that they share.

use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep_until},
};

/// Runs what reads or writes files, or works for long, on a thread for that. A panic goes on here.
pub async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is going down, and this task with it.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Waits for this instant; for ever where there is none.
pub async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// Gives memory that is free back to the system. What is used once at a start or reload, the tree of a large
/// configuration above all, leaves more of it between what stays than a daemon needs later.
#[cfg(target_env = "gnu")]
#[expect(
    unsafe_code,
    reason = "a function of the C library that takes any number, and that no crate wraps"
)]
pub fn trim_memory() {
    unsafe extern "C" {
        safe fn malloc_trim(keep: usize) -> std::ffi::c_int;
    }
    // Whether there was any makes no difference.
    malloc_trim(0);
}

/// Other C libraries give it back on their own, or not at all.
#[cfg(not(target_env = "gnu"))]
pub fn trim_memory() {}
