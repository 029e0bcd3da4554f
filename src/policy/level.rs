//! The words that a policy takes from two fixed lists: aggregation levels and location precisions.

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(missing_docs, reason = "the variants are the API's own words")]
        pub enum $name { $($variant),+ }

        impl $name {
            /// All of them, in the API's order.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name, as the server writes it.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant)),+ }
            }
        }
    };
}

words! {
    /// How coarse datum are served.
    Aggregation {
        None, Minute, FiveMinute, TenMinute, FifteenMinute, ThirtyMinute, Hour, HourOfDay, HourOfYear,
        SeasonalHourOfDay, Day, DayOfWeek, DayOfYear, SeasonalDayOfWeek, Week, WeekOfYear, Month, Year,
        RunningTotal,
    }
}

words! {
    /// How precisely a place is told. The server stores these and evaluates them nowhere.
    Precision {
        LatLong, Block, Street, PostalCode, Locality, StateOrProvince, Region, TimeZone, Country,
    }
}

impl Aggregation {
    /// The short key, which the server reads as well and SolarFlux topics use.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::None => "0",
            Self::Minute => "m",
            Self::FiveMinute => "5m",
            Self::TenMinute => "10m",
            Self::FifteenMinute => "15m",
            Self::ThirtyMinute => "30m",
            Self::Hour => "h",
            Self::HourOfDay => "hd",
            Self::HourOfYear => "hy",
            Self::SeasonalHourOfDay => "shd",
            Self::Day => "d",
            Self::DayOfWeek => "wd",
            Self::DayOfYear => "yd",
            Self::SeasonalDayOfWeek => "swd",
            Self::Week => "w",
            Self::WeekOfYear => "yw",
            Self::Month => "M",
            Self::Year => "y",
            Self::RunningTotal => "rt",
        }
    }

    /// The level by which the server compares, in seconds: different ones may be equal there.
    #[must_use]
    pub fn seconds(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Minute => 60,
            Self::FiveMinute => 300,
            Self::TenMinute => 600,
            Self::FifteenMinute => 900,
            Self::ThirtyMinute => 1800,
            Self::Hour | Self::HourOfDay | Self::HourOfYear | Self::SeasonalHourOfDay => 3600,
            Self::Day | Self::DayOfWeek | Self::DayOfYear | Self::SeasonalDayOfWeek => 86_400,
            Self::Week | Self::WeekOfYear => 604_800,
            Self::Month => 2_419_200,
            Self::Year => 31_536_000,
            Self::RunningTotal => 2_147_483_647,
        }
    }

    /// By name or short key; case-sensitive.
    #[must_use]
    pub fn named(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|level| text == level.name() || text == level.key())
    }
}

impl Precision {
    /// By name; case-sensitive.
    #[must_use]
    pub fn named(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|precision| text == precision.name())
    }
}
