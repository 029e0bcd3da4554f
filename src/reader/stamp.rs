//! No two datum of a source bear the same instant.
//!
//! The server's key is (node, source, time) at millisecond precision: a second datum of the same
//! instant would silently replace the first. Readings faster than that, or a wall clock that stepped
//! back, therefore continue one millisecond after the last stamp until the clock has caught up.

use crate::domain::Stamp;

/// The last stamp given to a source.
#[derive(Debug, Default, Clone, Copy)]
pub struct Increasing {
    last: Option<Stamp>,
}

impl Increasing {
    /// The stamp of a reading taken at `stamp`: that one, or just after the last on the same time
    /// line.
    pub fn next(&mut self, stamp: Stamp) -> Stamp {
        let next = match (self.last, stamp) {
            (Some(Stamp::Wall { unix_ms: last }), Stamp::Wall { unix_ms }) => {
                Stamp::Wall { unix_ms: unix_ms.max(last.saturating_add(1)) }
            }
            (
                Some(Stamp::Boot { boot: b, since_boot_ms: last }),
                Stamp::Boot { boot, since_boot_ms },
            ) if b == boot => {
                Stamp::Boot { boot, since_boot_ms: since_boot_ms.max(last.saturating_add(1)) }
            }
            (_, stamp) => stamp,
        };
        self.last = Some(next);
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::BootId;

    #[test]
    fn stamps_only_grow_on_each_time_line() {
        let boot = |since_boot_ms| Stamp::Boot { boot: BootId([1; 16]), since_boot_ms };
        let wall = |unix_ms| Stamp::Wall { unix_ms };
        let mut source = Increasing::default();
        let given = [boot(10), boot(10), boot(5), wall(1000), wall(1000), wall(400), wall(2000)];
        let want = [boot(10), boot(11), boot(12), wall(1000), wall(1001), wall(1002), wall(2000)];
        assert_eq!(given.map(|stamp| source.next(stamp)), want);
    }
}
