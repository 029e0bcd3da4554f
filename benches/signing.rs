//! What a signature costs: `cargo bench --bench signing`. A POST with a body of 1 KiB, its query and the headers that an
//! upload has; the key of the day is there already, as in the daemon.

use std::hint::black_box;

use chrono::{DateTime, Utc};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use solarnode_agent::{
    credential::{
        TokenSecret,
        sign::{Request, http_date, sign, signing_key},
    },
    domain::TokenId,
};

const BODY: [u8; 1024] = [b'x'; 1024];

fn signing(criterion: &mut Criterion) {
    let date = DateTime::<Utc>::from_timestamp(1_795_305_600, 0).expect("a time");
    let token: TokenId = "edge0edge0edge0edge0".parse().expect("an ID");
    let secret =
        TokenSecret::new("not-a-real-secret-edge0001".to_owned().into()).expect("a secret");
    let key = signing_key(&secret, date.date_naive());
    let headers = [
        ("Host".to_owned(), "data.solarnetwork.net".to_owned()),
        ("X-SN-Date".to_owned(), http_date(date)),
        ("Content-Type".to_owned(), "application/json".to_owned()),
    ];
    let request = Request {
        method: "POST",
        target: "/solaruser/api/v1/sec/instr/updateState?id=1&state=Completed",
        headers: &headers,
        sign_host: None,
        also_sign: &[],
        body: &BODY,
    };
    let mut group = criterion.benchmark_group("sign");
    group.throughput(Throughput::Elements(1));
    group.bench_function("a request of 1 KiB", |bench| {
        bench.iter(|| sign(black_box(&request), &token, &key, date).expect("signed"));
    });
    group.bench_function("the key of a day", |bench| {
        bench.iter(|| signing_key(black_box(&secret), date.date_naive()));
    });
    group.finish();
}

criterion_group!(benches, signing);
criterion_main!(benches);
