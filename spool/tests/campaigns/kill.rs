//! SIGKILL at a random moment, over and over, on the same queue.

use std::time::Duration;

use spool::Spool;

use crate::{
    Random, rounds,
    victim::{Book, Victim, options},
};

#[test]
fn what_was_durable_survives_sigkill_at_any_moment() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut random = Random::new();
    let mut book = Book::default();
    let kills = rounds("SPOOL_KILLS", 500);
    for round in 1..=kills {
        let mut victim = Victim::start(folder.path(), &mut random);
        victim.wait_for(4 + random.below(40));
        // The moment falls anywhere inside one of the next steps.
        std::thread::sleep(Duration::from_micros(random.below(500) as u64));
        book.note(&victim.kill(), u64::MAX);
        let (mut spool, recovery) = Spool::open(folder.path(), options()).expect("opens by itself");
        assert_eq!((recovery.corrupt, recovery.broken_headers), (0, 0), "round {round}");
        book.check(&mut spool, round);
    }
    println!("{kills} kills, {} records reported durable, none lost", book.reported);
}
