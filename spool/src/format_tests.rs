//! The bytes, by table: what `format.rs` says in words.

use proptest::prelude::*;

use crate::{format::*, record::*};

fn header() -> Header {
    Header {
        bytes: 1 << 20,
        number: 7,
        base: 1000,
        reserved: 66_536,
        dropped: 5,
        limit: 1 << 28,
        ranges: vec![(0, 999), (1001, 1005)],
        replaces: vec![3, 4],
    }
}

#[test]
fn names_are_read_back_and_others_refused() {
    for name in [
        Name::Segment { number: 0x1f, base: 1 },
        Name::Carried { number: 2, base: 0xabc },
        Name::Spare { number: 9 },
        Name::Unfinished { number: 10 },
    ] {
        assert_eq!(Name::parse(&name.to_string()), Some(name));
    }
    assert_eq!(
        Name::Segment { number: 31, base: 1 }.to_string(),
        "000000000000001f-0000000000000001.seg"
    );
    for other in [
        "",
        "lock",
        ".seg",
        "000000000000001f.seg",
        "000000000000001F-0000000000000001.seg",
        "000000000000001f-0000000000000001.seg.bak",
        "+00000000000001f-0000000000000001.seg",
        "ffffffffffffffff.spare",
    ] {
        assert_eq!(Name::parse(other), None, "{other}");
    }
}

#[test]
fn a_header_is_where_the_table_says() {
    let page = header().encode();
    assert_eq!(page.len(), 4096);
    for (at, bytes) in [
        (0, &b"SPOOLSEG"[..]),
        (8, &1u32.to_le_bytes()),
        (12, &(1u32 << 20).to_le_bytes()),
        (16, &7u64.to_le_bytes()),
        (24, &1000u64.to_le_bytes()),
        (32, &66_536u64.to_le_bytes()),
        (40, &5u64.to_le_bytes()),
        (48, &2u32.to_le_bytes()),
        (52, &2u32.to_le_bytes()),
        (56, &(1u64 << 28).to_le_bytes()),
        (72, &999u64.to_le_bytes()),
        (80, &1001u64.to_le_bytes()),
        (1088, &3u64.to_le_bytes()),
        (4092, &crc32c::crc32c(&page[..4092]).to_le_bytes()),
    ] {
        assert_eq!(&page[at..at + bytes.len()], bytes, "at {at}");
    }
    assert_eq!(Header::decode(&page), Some(header()));
    assert_eq!(Header::decode(&page[..4095]), None);
}

#[test]
fn a_header_takes_no_more_ranges_than_it_has_room_for() {
    let ranges: Vec<_> = (0..100).map(|i| (i * 10, i * 10 + 1)).collect();
    let decoded = Header::decode(&Header { ranges: ranges.clone(), ..header() }.encode());
    assert_eq!(decoded.expect("valid").ranges, ranges[..HEADER_SLOTS]);
}

#[test]
fn a_record_is_where_the_table_says() {
    let (mut bytes, seed) = (Vec::new(), Seed::new(7, 1000));
    push_record(&mut bytes, seed, Kind::Data, true, 0x01_02_03, b"abc");
    assert_eq!(bytes.len(), 14);
    assert_eq!(bytes[4..], [b'D' | 0x80, 3, 2, 1, 3, 0, b'a', b'b', b'c', 0]);
    let mut covered = Vec::from(7u64.to_le_bytes());
    covered.extend_from_slice(&1000u64.to_le_bytes());
    covered.extend_from_slice(&bytes[4..13]);
    assert_eq!(bytes[..4], crc32c::crc32c(&covered).to_le_bytes());
    let found = record_at(&bytes, seed, 0, bytes.len()).expect("checks out");
    assert_eq!((found.kind, found.starts_commit, found.offset), (Kind::Data, true, 0x01_02_03));
    assert_eq!((found.payload, found.end), (&b"abc"[..], 14));
    for (other, why) in
        [(Seed::new(8, 1000), "another number"), (Seed::new(7, 1001), "another base")]
    {
        assert_eq!(record_at(&bytes, other, 0, bytes.len()), None, "{why}");
    }
}

#[test]
fn a_seal_belongs_to_its_segment() {
    let seal = Seal { number: 7, first: 1000, last: 1999, count: 998, end: 99_998 };
    let bytes = seal.encode();
    assert_eq!(Seal::decode(&bytes, 7), Some(seal));
    assert_eq!(Seal::decode(&bytes, 8), None);
    assert_eq!(Seal::decode(&bytes[1..], 7), None);
    assert_eq!(Seal::decode(&[0; SEAL_BYTES], 0), None);
}

#[test]
fn a_loss_is_read_back_with_its_total() {
    for reason in [Reason::Limit, Reason::Unknown(77)] {
        let loss = Loss { first: 3, last: 9, count: 6, reason, note: u64::MAX };
        assert_eq!(Loss::decode(&loss.encode(41)), Some((loss, 41)));
        assert_eq!(Loss::decode(&loss.encode(41)[..40]), None);
    }
}

#[test]
fn many_ranges_take_several_records() {
    let ranges: Vec<_> = (0..5000u64).map(|i| (i * 3, i * 3 + 1)).collect();
    let (mut bytes, seed) = (vec![0; HEADER_BYTES], Seed::new(1, 1));
    push_ranges(&mut bytes, seed, true, &ranges);
    assert_eq!(bytes.len(), HEADER_BYTES + ranges_bytes(ranges.len()));
    let items: Vec<_> = Scan::new(&bytes, seed, bytes.len()).collect();
    let read = items.iter().flat_map(|item| match item {
        Item::Record(found) => pairs(found.payload).collect(),
        Item::Damage(..) => Vec::new(),
    });
    assert!(read.eq(ranges));
}

#[test]
fn records_of_a_later_version_are_skipped_without_being_damage() {
    let (mut bytes, seed) = (vec![0; HEADER_BYTES], Seed::new(1, 1));
    push_record(&mut bytes, seed, Kind::Unknown(b'T'), true, 0, b"thinned");
    push_record(&mut bytes, seed, Kind::Data, false, 0, b"data");
    let items: Vec<_> = Scan::new(&bytes, seed, bytes.len()).collect();
    assert!(matches!(
        items[..],
        [
            Item::Record(Found { kind: Kind::Unknown(b'T'), .. }),
            Item::Record(Found { kind: Kind::Data, .. })
        ]
    ));
}

#[test]
fn fillers_take_exactly_the_place_of_what_was_torn() {
    let seed = Seed::new(1, 1);
    for gap in [10, 12, 500, 32_766, 32_768, 32_770, 32_776, 32_778, 65_536, 100_000] {
        let mut bytes = vec![0xEE; HEADER_BYTES + gap];
        push_record(&mut bytes, seed, Kind::Data, false, 0, b"behind");
        fill_gap(&mut bytes[HEADER_BYTES..HEADER_BYTES + gap], seed);
        let items: Vec<_> = Scan::new(&bytes, seed, bytes.len()).collect();
        let kind = |item: &Item<'_>| match item {
            Item::Record(found) => Some(found.kind),
            Item::Damage(..) => None,
        };
        let (last, fillers) = items.split_last().expect("not empty");
        assert_eq!(kind(last), Some(Kind::Data), "{gap}");
        assert!(fillers.iter().all(|item| kind(item) == Some(Kind::Filler)), "{gap}");
    }
}

#[test]
fn areas_of_a_segment_do_not_overlap() {
    for bytes in [0, 16 * 1024, 64 * 1024, 1 << 20, u32::MAX] {
        let layout = Layout::new(bytes);
        assert!(layout.data_end() < layout.ack_end() && layout.ack_end() < layout.seal_at());
        assert!(record_bytes(LOSS_BYTES) <= layout.seal_at() - layout.ack_end());
        // What a new segment repeats leaves room for the largest record.
        let repeats = ranges_bytes(layout.max_ranges()) + MAX_LOSSES * record_bytes(LOSS_BYTES);
        let first = ranges_bytes(layout.max_ranges()) + RESERVATION_BYTES;
        let largest = record_bytes(layout.max_payload());
        assert!(HEADER_BYTES + repeats + first + largest <= layout.data_end(), "{bytes}");
    }
}

proptest! {
    #[test]
    fn foreign_bytes_do_not_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..6000),
        number: u64,
    ) {
        let seed = Seed::new(number, 1);
        prop_assert!(Header::decode(&bytes).is_none());
        prop_assert!(Seal::decode(&bytes, number).is_none());
        prop_assert_eq!(Scan::new(&bytes, seed, bytes.len()).count(), 0);
        prop_assert!(pairs(&bytes).count() <= bytes.len() / 16);
        reservation(&bytes);
        Loss::decode(&bytes);
    }

    #[test]
    fn a_scan_finds_every_record_but_the_damaged_one(
        sizes in prop::collection::vec(0usize..300, 2..30),
        at: prop::sample::Index,
        bit in 0u8..8,
    ) {
        let (mut bytes, seed) = (vec![0; HEADER_BYTES], Seed::new(3, 50));
        let mut ends = vec![bytes.len()];
        for (i, size) in sizes.iter().enumerate() {
            push_record(&mut bytes, seed, Kind::Data, false, i as u32, &vec![b'D'; *size]);
            ends.push(bytes.len());
        }
        let hit = HEADER_BYTES + at.index(bytes.len() - HEADER_BYTES);
        bytes[hit] ^= 1 << bit;
        let found: Vec<u32> = Scan::new(&bytes, seed, bytes.len())
            .filter_map(|item| match item {
                Item::Record(found) => Some(found.offset),
                Item::Damage(..) => None,
            })
            .collect();
        let damaged = ends.partition_point(|end| *end <= hit) - 1;
        // A padding byte belongs to no record.
        let padding = hit + 1 == ends[damaged + 1] && sizes[damaged] % 2 == 1;
        let expected = (0..sizes.len()).filter(|i| padding || *i != damaged).map(|i| i as u32);
        prop_assert!(found.iter().copied().eq(expected));
    }
}
