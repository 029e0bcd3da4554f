//! The dates of a server's answers, one a line, and what the clock learns from them.

use std::{collections::BTreeMap, hint::black_box, time::Duration};

use chrono::{DateTime, Datelike, TimeDelta, Utc};
use solarnode_agent::{
    clock::{Core, Now, build_date},
    credential::{date::parse_http_date, http_date},
    domain::{BootId, Stamp},
};

pub(crate) fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let system: DateTime<Utc> = "1970-01-01T00:01:00Z".parse().expect("a date");
    let mut core = Core::new(BootId([1; 16]), BTreeMap::new());
    for (line, secs) in text.lines().zip(10..) {
        let Some(date) = parse_http_date(line) else { continue };
        if (0..=9999).contains(&date.year()) {
            // Leap seconds have no name of their own.
            let again = parse_http_date(&http_date(date)).expect("our own date");
            assert!((again - date).abs() <= TimeDelta::seconds(1), "{date} became {again}");
        }
        let now = Now { system, since_boot: Duration::from_secs(secs) };
        let learnt = core.learn_server(now, date);
        assert!(!learnt || date > build_date() - TimeDelta::days(3660), "{date} was learnt");
        black_box((core.doubts(), core.trust(now)));
        // Whatever was learnt, a reading has its place or waits for one.
        match core.stamp(now) {
            Stamp::Wall { unix_ms } => assert!(unix_ms > 0),
            stamp @ Stamp::Boot { .. } => assert_eq!(core.place(stamp), None),
        }
    }
}
