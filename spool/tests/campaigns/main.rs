//! Campaigns: the queue is hurt hundreds of times at random, and asked each time what it still has.
//!
//! | Module | What happens | How often | Variable |
//! | --- | --- | --: | --- |
//! | [`kill`] | the writer is ended by SIGKILL | 500 | `SPOOL_KILLS` |
//! | [`power`] | the device below two file systems forgets what was not flushed | 100 | `SPOOL_POWER_CUTS` |
//! | [`full`] | the file system has no room left while the queue is open | | |
//! | [`rot`] | bits, pages and ends of files go bad, before opening and while open | 1000 | `SPOOL_ROT` |
//! | [`thin`] | the device takes writes and cannot keep them: a sync fails | 20 | `SPOOL_FAILED_SYNCS` |
//!
//! The variables make a campaign shorter or longer; `SPOOL_SEED` repeats one (the seed is printed).
//! What mounts file systems needs root, and finds `mkfs.ext4`, `mount` and `losetup`.

mod device;
mod full;
mod kill;
mod power;
mod rot;
mod thin;
mod victim;

/// How often to do it: what the variable says, or the full count.
fn rounds(variable: &str, full: u32) -> u32 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text}")),
        Err(_) => full,
    }
}

/// Random numbers that one seed repeats.
struct Random(u64);

impl Random {
    /// Seeded by `SPOOL_SEED`, or anew; printed, so that a failure names it.
    fn new() -> Self {
        let nanos = std::time::UNIX_EPOCH.elapsed().expect("after 1970").subsec_nanos();
        let seed = rounds("SPOOL_SEED", nanos);
        println!("SPOOL_SEED={seed}");
        Self((u64::from(seed) << 1) | 1)
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit.max(1)
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}
