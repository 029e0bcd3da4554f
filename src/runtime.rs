//! What tasks ask of the runtime that they share one thread of, and of the memory that they share.

use std::{cell::Cell, time::Duration};

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

/// The stride of tokio's timer: it keeps what is due within the present one by the millisecond, and what is due later
/// by the stride, whose beginning wakes the thread to sort that in. What is due at the beginning itself wakes it once.
pub const STRIDE: Duration = Duration::from_millis(64);

thread_local! {
    /// When the timer of this thread's runtime began.
    static BEGAN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// To be told on the thread of a runtime, with an instant just before it was built. Without that, all goes well and
/// the thread wakes up more often.
pub fn timer_began(at: Instant) {
    BEGAN.set(Some(at));
}

/// The beginning of the timer's stride in which `at` lies; `at` itself where nobody knows.
#[must_use]
pub fn stride_of(at: Instant) -> Instant {
    let Some(began) = BEGAN.get() else { return at };
    let into = at.saturating_duration_since(began).as_nanos() % STRIDE.as_nanos();
    at - Duration::from_nanos(u64::try_from(into).unwrap_or(0))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strides_are_counted_from_the_beginning_of_the_timer() {
        let began = Instant::now();
        let at = began + STRIDE * 1000 + STRIDE / 3;
        assert_eq!(stride_of(at), at, "nobody knows");
        timer_began(began);
        assert_eq!(stride_of(at), began + STRIDE * 1000);
        assert_eq!(stride_of(began), began);
    }
}
