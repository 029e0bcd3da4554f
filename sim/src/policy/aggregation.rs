//! The levels of aggregation, and which one a policy serves.

/// One level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Aggregation {
    name: &'static str,
    key: &'static str,
    seconds: u32,
}

const fn level(name: &'static str, key: &'static str, seconds: u32) -> Aggregation {
    Aggregation { name, key, seconds }
}

const LEVELS: [Aggregation; 19] = [
    level("None", "0", 0),
    level("Minute", "m", 60),
    level("FiveMinute", "5m", 300),
    level("TenMinute", "10m", 600),
    level("FifteenMinute", "15m", 900),
    level("ThirtyMinute", "30m", 1800),
    level("Hour", "h", 3600),
    level("HourOfDay", "hd", 3600),
    level("HourOfYear", "hy", 3600),
    level("SeasonalHourOfDay", "shd", 3600),
    level("Day", "d", 86_400),
    level("DayOfWeek", "wd", 86_400),
    level("DayOfYear", "yd", 86_400),
    level("SeasonalDayOfWeek", "swd", 86_400),
    level("Week", "w", 604_800),
    level("WeekOfYear", "yw", 604_800),
    level("Month", "M", 2_419_200),
    level("Year", "y", 31_536_000),
    level("RunningTotal", "rt", 2_147_483_647),
];

impl Aggregation {
    /// No aggregation: datum as they were sent.
    pub(crate) const NONE: Self = LEVELS[0];

    /// The level with this name or short key; case-sensitive.
    pub(crate) fn named(text: &str) -> Option<Self> {
        LEVELS.into_iter().find(|level| text == level.name || text == level.key)
    }

    pub(crate) fn name(self) -> &'static str {
        self.name
    }

    pub(crate) fn seconds(self) -> u32 {
        self.seconds
    }

    /// Levels compare by length, so `Hour` as a minimum admits `HourOfDay`.
    pub(crate) fn reaches(self, minimum: Self) -> bool {
        self.seconds >= minimum.seconds
    }
}
