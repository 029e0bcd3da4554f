//! libFuzzer on one of the targets, the one that `FUZZ_TARGET` names.

#![no_main]

use std::sync::LazyLock;

use fuzz_targets::{TARGETS, Target};
use libfuzzer_sys::fuzz_target;

static CHECK: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    target.unwrap_or_else(|| panic!("FUZZ_TARGET names no target: {name:?}")).1
});

fuzz_target!(|input: &[u8]| CHECK(input));
